"""``python -m bitline`` is the command ``bitline``."""

from bitline.cli import app

app()
