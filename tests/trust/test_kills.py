"""Fifty kills with SIGKILL, spread over everything that a whole story writes: the end is that of an undisturbed one."""

import itertools
import signal

import numpy as np
import pytest

from tests.trust import runs

GROUPS, KILLS = 5, 10
CHAPTERS = ("rollouts/shards", "vae/", "memory/", "latents/", "iterations/", "evolve-dream/", "evolve-game/")
CHAPTERS += ("tests/", "media/")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(told):
    """The results of a story that nothing disturbed, and the files in the order in which it wrote to them."""
    folder, written = told
    return runs.results(folder / "run"), written


def targets(written, group):
    """``KILLS`` files and how often each is met before the kill: one of each tenth of all that is written, but for the last
    ones, which stand for a chapter that chance could pass over."""
    rng = np.random.default_rng([group, 9])
    edges = np.linspace(0, len(written), KILLS + 1).astype(int)
    found = []
    for first, last in itertools.pairwise(edges):
        path = written[int(rng.integers(first, last))]
        found.append((path, int(rng.integers(written.count(path)))))
    chapters = CHAPTERS[group::GROUPS]
    return found[: KILLS - len(chapters)] + [
        (next(path for path in written if chapter in path), 0) for chapter in chapters
    ]


@pytest.mark.parametrize("group", range(GROUPS))
def test_ten_kills_change_nothing(undisturbed, tmp_path, group):
    wanted, written = undisturbed
    order = {path: number for number, path in reversed(list(enumerate(written)))}
    killed = []
    for target in sorted(targets(written, group), key=lambda target: order[target[0]]):
        code = runs.sit(runs.run_pipeline, tmp_path, None, target, order)
        assert code in (0, -signal.SIGKILL), (target, (tmp_path / "said.txt").read_text()[-2000:])
        killed.append(code)
    assert killed.count(-signal.SIGKILL) >= KILLS - 1, killed
    assert runs.sit(runs.run_pipeline, tmp_path) == 0, (tmp_path / "said.txt").read_text()[-2000:]
    found = runs.results(tmp_path / "run")
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_the_kills_reach_every_chapter(undisturbed):
    _, written = undisturbed
    met = " ".join(path for group in range(GROUPS) for path, _ in targets(written, group))
    for chapter in CHAPTERS:
        assert chapter in met
