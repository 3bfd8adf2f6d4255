"""What a :class:`~bitline.evaluate.result.Result` looks like: one HTML file, terminal tables, CSV."""

from bitline.report.html import render_html, write_html
from bitline.report.tables import mapping_table, summary_table, write_csv

__all__ = ["mapping_table", "render_html", "summary_table", "write_csv", "write_html"]
