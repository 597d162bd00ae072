"""Fifty kills with SIGKILL, spread over all file operations of a run, do not change its results."""

import itertools
import signal

import numpy as np
import pytest

from tests.trust import runs

GROUPS, KILLS = 5, 10
STAGES = ("rollouts/shards", "vae/", "memory/", "latents/", "iterations/", "evolve-dream/", "evolve-game/")
STAGES += ("tests/", "media/")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed_results(undisturbed_run):
    """The results of an undisturbed run, and the paths of its file operations in order."""
    folder, operations = undisturbed_run
    return runs.results(folder / "run"), operations


def targets(operations, group):
    """``KILLS`` paths, each with a number of operations to skip: one of each tenth of all operations.

    The last ones are replaced by the first path of each stage of the group, which a random choice could miss.
    """
    rng = np.random.default_rng([group, 9])
    edges = np.linspace(0, len(operations), KILLS + 1).astype(int)
    chosen = []
    for first, last in itertools.pairwise(edges):
        path = operations[int(rng.integers(first, last))]
        chosen.append((path, int(rng.integers(operations.count(path)))))
    stages = STAGES[group::GROUPS]
    return chosen[: KILLS - len(stages)] + [(next(path for path in operations if stage in path), 0) for stage in stages]


@pytest.mark.parametrize("group", range(GROUPS))
def test_ten_kills_change_no_result(undisturbed_results, tmp_path, group):
    expected, operations = undisturbed_results
    order = {path: number for number, path in reversed(list(enumerate(operations)))}
    killed = []
    for target in sorted(targets(operations, group), key=lambda target: order[target[0]]):
        code = runs.run_in_process(runs.run_pipeline, tmp_path, None, target, order)
        assert code in (0, -signal.SIGKILL), (target, (tmp_path / "output.txt").read_text()[-2000:])
        killed.append(code)
    assert killed.count(-signal.SIGKILL) >= KILLS - 1, killed
    assert runs.run_in_process(runs.run_pipeline, tmp_path) == 0, (tmp_path / "output.txt").read_text()[-2000:]
    found = runs.results(tmp_path / "run")
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_kills_reach_every_stage(undisturbed_results):
    _, operations = undisturbed_results
    reached = " ".join(path for group in range(GROUPS) for path, _ in targets(operations, group))
    for stage in STAGES:
        assert stage in reached
