"""Memory use is constant over two thousand resets of each environment and over a dream of two hours."""

import json

import pytest

from tests.trust import runs

RESETS = 2_000
STEPS = 2 * 3600 * 50
"""Two hours of a game at 50 Hz."""
MAX_GROWTH = 8e6
"""Bytes in addition to the use after the warm-up."""
IDS = ("CarRacing", "FastCarRacing", "SuperMarioBros-1-1", "CartPole-v1")


@pytest.mark.slow
def test_memory_stays_flat_over_resets_and_in_a_long_dream(tmp_path):
    jobs = {id: (runs.reset_often, (id, RESETS, str(tmp_path / id))) for id in IDS}
    jobs["dream"] = (runs.dream_long, (STEPS, str(tmp_path / "dream")))
    processes = {name: runs.context().Process(target=job, args=args) for name, (job, args) in jobs.items()}
    for process in processes.values():
        process.start()
    for process in processes.values():
        process.join()
    assert {name: process.exitcode for name, process in processes.items()} == dict.fromkeys(jobs, 0)
    used = {name: json.loads((tmp_path / name).read_text()) for name in jobs}
    growth = {name: max(values) - values[0] for name, values in used.items()}
    assert max(growth.values()) < MAX_GROWTH, growth
