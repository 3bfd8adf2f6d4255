"""Tables for the terminal that keep words and figures whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box, table
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text


class Table(table.Table):
    """A table whose columns are as wide as the terminal lets, and no narrower than what may not be broken.

    Columns of figures stand to the right, and a figure stays on its line; heads and words wrap between words. Where
    that is wider than the terminal, or words would have lines of their own without them, the lines between columns go;
    where it still is, the longest names are folded. Nothing is cut. Title and caption are text, not markup.
    """

    def __init__(self, title: str = "", caption: str = "", show_header: bool = True) -> None:
        super().__init__(title_justify="left", caption_justify="left", show_header=show_header)
        self.title, self.caption = Text(title) if title else None, Text(caption) if caption else None

    def words(self, *names: str) -> None:
        """Add columns of words."""
        for name in names:
            self.add_column(Text(name), overflow="fold")

    def figures(self, *names: str) -> None:
        """Add columns of figures."""
        for name in names:
            self.add_column(Text(name), overflow="fold", justify="right")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """The lines of the table, fitted to the terminal."""
        wide, number = options.update(width=10_000), len(self.columns)
        least, most = zip(*(self._needs(column, console, wide) for column in self.columns), strict=True)
        words = [column.justify != "right" for column in self.columns]
        whole = sum(high if word else low for low, high, word in zip(least, most, words, strict=True))
        lined, bare = options.max_width - 3 * number - 1, options.max_width - 2 * number + 1
        light = sum(least) > lined or lined < whole <= bare
        shown = copy.copy(self)
        if light:
            shown.box, shown.show_edge, shown.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
        shown.columns = [copy.copy(column) for column in self.columns]
        for column, width in zip(shown.columns, _shared(least, most, bare if light else lined, words), strict=True):
            column.width = width
        yield from table.Table.__rich_console__(shown, console, options)

    def _needs(self, column: table.Column, console: Console, options: ConsoleOptions) -> tuple[int, int]:
        """(least, most) characters of a column: one that is narrower than the least breaks a word or a figure."""
        head = [Measurement.get(console, options, column.header)] if self.show_header else []
        cells = [Measurement.get(console, options, one) for one in column.cells]
        whole = [one.maximum if column.justify == "right" else one.minimum for one in cells]
        return (
            max([1, *(one.minimum for one in head), *whole]),
            max([1, *(one.maximum for one in (*head, *cells))]),
        )


def _shared(least: Sequence[int], most: Sequence[int], room: int, words: Sequence[bool]) -> list[int]:
    """Widths that fill the room: words first, those whole soonest that lack least, then the heads of figures, those
    first that take most lines. Where the room is too small, words give, the widest most, and then all."""
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:
        long = [i for i, width in enumerate(widths) if width > 8 and words[i]] or range(len(widths))
        widths[max(long, key=widths.__getitem__)] -= 1
    while sum(widths) < room and (short := [i for i, width in enumerate(widths) if width < most[i]]):
        names = [i for i in short if words[i]]
        if names:
            widths[min(names, key=lambda i: most[i] - widths[i])] += 1
        else:
            widths[max(short, key=lambda i: most[i] / widths[i])] += 1
    return widths
