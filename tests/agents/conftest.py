"""Fixtures of runs."""

import pytest


@pytest.fixture(scope="module")
def no_report():
    """Runs without a report: its plots take longer than a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.agents.analysis.report.write_report", lambda run, settings, *rest: None)
        yield
