"""Fixtures of runs."""

import functools

import pytest

from worldmodel import VAE


@pytest.fixture(scope="module", autouse=True)
def narrow_vaes(request):
    """Build VAEs with 4 instead of 32 channels in the first layer: the published width is slow to train and to write.

    Files name the width, so other processes load it. A module with ``PUBLISHED_VAE = True`` keeps the published width.
    """
    if getattr(request.module, "PUBLISHED_VAE", False):
        yield
        return
    build = VAE.__init__

    @functools.wraps(build)
    def narrow(self, *args, **options):
        build(self, *args, **{"base_channels": 4} | options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE, "__init__", narrow)
        yield


@pytest.fixture(scope="module")
def no_report():
    """Runs without a report: its plots take longer than a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.report.write_report", lambda run, settings, *rest: None)
        yield
