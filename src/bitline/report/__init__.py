"""What a result or a sweep looks like: one HTML file, terminal tables, CSV."""

from bitline.report.html import render_html, write_html
from bitline.report.sweep import render_sweep, write_sweep, write_sweep_csv
from bitline.report.tables import mapping_table, summary_table, write_csv
from bitline.report.verification import render_verification, write_verification

__all__ = [
    "mapping_table",
    "render_html",
    "render_sweep",
    "render_verification",
    "summary_table",
    "write_csv",
    "write_html",
    "write_sweep",
    "write_sweep_csv",
    "write_verification",
]
