"""Pieces of pictures: texts, lines, and the frame round them."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format
line = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format


def picture(width: float, height: float, title: str, style: str, parts: Iterable[str]) -> str:
    """An SVG file of these parts on white; ``style``: CSS of their classes."""
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" '
            'aria-label="{2}"><style>{3}</style><rect width="{0}" height="{1}" fill="#fff"/>{4}</svg>\n'
        ).format(width, height, escape(title), Markup(style), Markup("").join(parts))
    )
