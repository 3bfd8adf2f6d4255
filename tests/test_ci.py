"""`.ci/run`: what a green run leaves out is said where it ends."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPT = """
id() { echo 1000; }  # not root: nothing is installed
source <(sed -n '/^tool()/,/^}/p' .ci/run)
tool bash bash "run anything"
tool no-such-one first "need the first"
tool no-such-two second "need the second"
cd "$FOLDER" && exec "$PYTHON" -m pytest -q
"""


def test_tools_that_are_absent_are_told_above_the_summary(tmp_path):
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "BITLINE"))}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SCRIPT],
        cwd=HERE.parent,
        env=environment | {"FOLDER": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert lines[0] == "ci: no first, the tests that need the first will be skipped"
    assert lines[-2] == "not installed, and tests that need it skipped: first, second"
    assert lines[-1].startswith("1 passed in ")
