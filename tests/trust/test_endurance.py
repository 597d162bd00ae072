"""Two thousand resets of every kind of environment, and a dream of two hours: memory stays flat."""

import json

import pytest

from tests.trust import runs

RESETS = 2_000
STEPS = 2 * 3600 * 50
"""Two hours of a game at 50 Hz."""
MOST = 8e6
"""Bytes more than after the warm-up."""
IDS = ("CarRacing", "FastCarRacing", "SuperMarioBros-1-1", "CartPole-v1")


@pytest.mark.slow
def test_memory_stays_flat_over_resets_and_in_a_long_dream(tmp_path):
    jobs = {id: (runs.reset_often, (id, RESETS, str(tmp_path / id))) for id in IDS}
    jobs["dream"] = (runs.dream_long, (STEPS, str(tmp_path / "dream")))
    processes = {name: runs.context().Process(target=job, args=words) for name, (job, words) in jobs.items()}
    for process in processes.values():
        process.start()
    for process in processes.values():
        process.join()
    assert {name: process.exitcode for name, process in processes.items()} == dict.fromkeys(jobs, 0)
    used = {name: json.loads((tmp_path / name).read_text()) for name in jobs}
    grown = {name: max(numbers) - numbers[0] for name, numbers in used.items()}
    assert max(grown.values()) < MOST, grown
