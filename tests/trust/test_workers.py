"""Workers that are killed during collection and evolution do not change the results."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import toys
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import LinearController, evolve

pytestmark = pytest.mark.slow


class Mortal(toys.Counter):
    """A Counter that kills its process in its third step, once for each file in a folder."""

    def __init__(self, folder):
        super().__init__(length=6)
        self.folder = folder

    def step(self, action):
        if self.now == 2:
            for marker in sorted(Path(self.folder).iterdir()):
                try:
                    marker.unlink()
                except FileNotFoundError:  # the other worker was faster
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def mortal(folder):
    return Mortal(folder)


@pytest.fixture
def kill_markers(tmp_path):
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


def test_killed_workers_change_no_store(kill_markers, tmp_path):
    env = partial(mortal, str(kill_markers))
    undisturbed = rollouts.collect(env, rollouts.uniform, 6, seed=1, episodes_per_shard=2, out=tmp_path / "quiet")
    for number in range(2):
        (kill_markers / str(number)).touch()
    store = rollouts.collect(env, rollouts.uniform, 6, seed=1, episodes_per_shard=2, workers=2, out=tmp_path / "store")
    assert not list(kill_markers.iterdir())
    assert [path.name for path in (store.path / "shards").iterdir() if path.name.startswith(".")] == []
    for shard in undisturbed.shards:
        assert (store.path / "shards" / shard.path.name).read_bytes() == shard.path.read_bytes()


def test_killed_workers_change_no_evolution(kill_markers):
    with seeded(1):
        world = WorldModel(VAE(2), Memory(FRMDN(4, 2, hidden_size=4, num_components=2)))
    found = []
    for workers in (1, 2):
        for number in range(workers - 1):
            (kill_markers / str(number)).touch()
        fitness = rollouts.EnvFitness(partial(mortal, str(kill_markers)), world, 1, workers=workers)
        best = evolve(LinearController.for_world_model(world), fitness, population=4, generations=2, seed=3)
        found.append(best.parameters)
    assert not list(kill_markers.iterdir())
    assert torch.equal(*found)
    assert np.isfinite(found[0].numpy()).all()
