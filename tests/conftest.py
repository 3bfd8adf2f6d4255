"""What every test may ask for: data, networks, and code without its shape checks."""

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"

import jaxtyping
import pytest
from hypothesis import settings

settings.register_profile("bitline", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bitline")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set (`make data`, then `make test`)")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets; the test is skipped where `BITLINE_DATA` is unset."""
    return _folder("BITLINE_DATA")


@pytest.fixture(scope="session")
def networks_dir() -> Path:
    """The folder of trained networks; the test is skipped where `BITLINE_NETWORKS` is unset."""
    return _folder("BITLINE_NETWORKS")


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Shape checks off, for `torch.compile` and strict export, which cannot trace through them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What `.ci/run` could not install, so that a green run with tests left out says so."""
    if absent := os.environ.get("BITLINE_ABSENT"):
        terminalreporter.write_line(f"not installed, and tests that need it skipped: {absent}")
