"""Fixtures for all tests.

Environment variables of the tests, in addition to those of torch (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`):
    TEST_THREADS: Number of torch threads, 1 by default. The tests pass with any number.

``pytest --no-skips`` (``make test SKIPS=forbid``) fails if a test was skipped because an optional dependency is missing.
"""

import functools
import os
import signal
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from tests.skips import IMPOSSIBLE

# Check the shapes and types of calls inside `worldmodel` itself, not in its subpackages, whose fakes have other types.
LIBRARY = Path(__file__).parent.parent / "worldmodel"
jaxtyping.install_import_hook(
    [f"worldmodel.{path.stem}" for path in LIBRARY.iterdir() if not path.stem.startswith("__")], "beartype.beartype"
)

# Tests run in parallel processes; more threads would slow down small operations.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if a test was skipped that could run here")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session after avoidable skips. Runs in the reporting process, not in the workers of pytest-xdist."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not config.getoption("--no-skips") or hasattr(config, "workerinput") or reporter is None:
        return
    reasons = {str(report.longrepr[2]) for report in reporter.stats.get("skipped", []) if len(report.longrepr) == 3}
    avoidable = sorted(reason for reason in reasons if not reason.removeprefix("Skipped: ").startswith(IMPOSSIBLE))
    if avoidable and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("")
        reporter.write_line(f"--no-skips: {'; '.join(avoidable)}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the global random states, so that unseeded draws do not depend on the order of the tests."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def as_users_do():
    """Disable jaxtyping's checks, which would raise before our own validation does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def ctrl_c():
    """Handle SIGINT as a foreground program does; a shell starts background programs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def narrow_vaes(request):
    """Build VAEs with 4 instead of 32 channels in the first layer: the published width is slow to train and to write.

    Files name the width, so other processes load it. A module with ``PUBLISHED_VAE = True`` keeps the published width.
    """
    if getattr(request.module, "PUBLISHED_VAE", False):
        yield
        return
    from worldmodel import VAE  # not above: jaxtyping's checks are installed after this file is read

    build = VAE.__init__

    @functools.wraps(build)
    def narrow(self, *args, **options):
        build(self, *args, **{"base_channels": 4} | options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE, "__init__", narrow)
        yield
