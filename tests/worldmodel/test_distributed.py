"""Two processes with half a batch each train the same weights as one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.io.files import read_tensors
from worldmodel.training import distributed

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import torch

from worldmodel import RMDN, VAE, Memory, fit, seeded
from worldmodel.batches import SequenceBatch

torch.set_num_threads(1)


class Walks:
    identity = "walks"

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        z = rng.normal(size=(size, 9, 4)).cumsum(1).astype(np.float32) * 0.3
        mask = (rng.random((size, 8)) < 0.8).astype(np.float32)
        parts = z[:, :-1], rng.normal(size=(size, 8, 2)), z[:, 1:], z[:, 1:, 0], mask, mask
        return SequenceBatch(*(torch.from_numpy(np.asarray(part, np.float32)) for part in parts))

    def batches(self, size):
        yield self.batch(size, np.random.default_rng(1))


class Pictures(Walks):
    identity = "pictures"

    def batch(self, size, rng):
        light = rng.integers(0, 255, (size, 1, 1, 1)).astype(np.uint8)
        return torch.from_numpy(np.broadcast_to(light, (size, 64, 64, 3)).copy())


with seeded(0):
    memory, vae = Memory(RMDN(6, 4, hidden_size=8)), VAE(latent_dim=2)
common = dict(batch_size=12, seed=3, eval_every=5, tensorboard=False)
fit(memory, Walks(), num_updates=30, out=Path(sys.argv[1]) / "memory", **common)
fit(vae, Pictures(), num_updates=60, out=Path(sys.argv[1]) / "vae", **common)
"""


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # at a free port
    one = [sys.executable, str(script), str(tmp_path / "one")]
    two = [sys.executable, *launcher, str(script), str(tmp_path / "two")]
    for command in (one, two):
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-5_000:]
    alone, together = (read_tensors(tmp_path / name / "memory" / "weights.safetensors") for name in ("one", "two"))
    for name, weight in alone.items():
        # Compare whole tensors: Adam takes full steps even where a gradient is only rounding error.
        assert np.linalg.norm(together[name] - weight) < 1e-3 * np.linalg.norm(weight), name
    curves = {
        (name, kind): [json.loads(row) for row in (tmp_path / name / kind / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
        for kind in ("memory", "vae")
    }
    for row, other in zip(curves["one", "memory"], curves["two", "memory"], strict=True):
        assert other["train"]["nll"] == pytest.approx(row["train"]["nll"], rel=1e-4)
    first, last, other = (
        curves[name, "vae"][at]["held_out"]["loss"] for name, at in (("one", 0), ("one", -1), ("two", -1))
    )
    assert last < 0.9 * first
    assert other == pytest.approx(last, rel=0.1)  # the noise of the two runs differs


def test_rank_without_world_size_is_the_main_process(monkeypatch):
    monkeypatch.setenv("RANK", "3")  # left by a scheduler, without other processes
    assert distributed.is_main_process()
    assert distributed.init() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not distributed.is_main_process()
