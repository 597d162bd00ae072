"""The benchmark of a GPU runs on a processor with tiny sizes; its data, its scores and its counts of operations are right."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu, gpu_training
from benchmarks.gpu_training import (
    SOURCE,
    Dreamed,
    dream_data,
    frames_of,
    marginal_nll,
    negative_log_likelihood,
    train_memory,
    train_vae,
)
from worldmodel import FRMDN, VAE, Memory, WorldModel
from worldmodel.io.files import read_json


@pytest.fixture(scope="module")
def source():
    return WorldModel.load(SOURCE).eval()


def test_a_processor_measures_tiny_sizes_and_says_what_it_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    results = gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert read_json(tmp_path / "gpu.json") == results
    for words in ("matrix product", "dreams, eager", "FRMDN update", "VAE update", "VAE to", "FRMDN to"):
        values = [row["value"] for row in results["rows"] if row["what"].startswith(words)]
        assert len(values) >= 1, words
        assert all(np.isfinite(value) and value > 0 for value in values)
    assert all(one.endswith("no GPU") for one in results["not_measured"])  # nothing else failed
    assert {*results["kernels"]} == {"dream", "FRMDN update", "VAE update"}
    assert all(0 < sum(one["share"] for one in kernels) <= 1 + 1e-9 for kernels in results["kernels"].values())


def test_figures_of_a_processor_are_not_kept(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--write"])
    assert stopped.value.code == 2
    assert not gpu.RESULT.exists() or read_json(gpu.RESULT)["hardware"]
    assert "--write" in capsys.readouterr().err


def test_operations_of_linear_and_recurrent_layers():
    """A forward pass has 2 operations per weight and row; backward, the gradients of weights and inputs twice as many."""
    linear, lstm = nn.Linear(5, 7), nn.LSTM(5, 3, batch_first=True)
    x, sequence = torch.randn(11, 5, requires_grad=True), torch.randn(4, 6, 5)
    assert gpu.flops_of(lambda: linear(x).sum().backward(), linear, 11) == 3 * 2 * 11 * 5 * 7
    counted = gpu.flops_of(lambda: lstm(sequence)[0].sum().backward(), lstm, 4 * 6)
    assert counted == 3 * 2 * 4 * 6 * (4 * 3) * (5 + 3)


def test_sequences_are_aligned_and_parts_are_disjoint():
    steps = torch.arange(13.0).expand(10, 13) + 100 * torch.arange(10.0)[:, None]
    data = Dreamed(steps[..., None], steps[:, :-1, None], steps[:, :-1], seq_len=4)
    training, held_out = data.split(0.2, 0)
    batch = training.batch(50, np.random.default_rng(0))
    assert torch.equal(batch.action[..., 0], batch.latent[..., 0])
    assert torch.equal(batch.next_latent, batch.latent + 1)
    assert torch.equal(batch.reward, batch.latent[..., 0])
    assert set(batch.latent[:, 0, 0].int().tolist()) <= {100 * row + start for row in range(8) for start in range(9)}
    rows = [int(one) // 100 for part in held_out.batches(1) for one in part.latent[:, 0, 0]]
    assert rows == [8, 9]


def test_the_model_that_dreamed_the_data_is_better_than_one_gaussian(source):
    training, held_out = dream_data(source, num_dreams=60, num_steps=40).split(0.3, 0)
    assert negative_log_likelihood(source.memory, held_out) < marginal_nll(training.latent, held_out.latent) - 5
    frames = frames_of(source, held_out)
    assert frames.frames.shape == (18 * 11, 64, 64, 3)
    assert frames.frames.dtype == torch.uint8


def test_the_gaussian_is_that_of_the_moments():
    torch.manual_seed(0)
    latent = torch.randn(1, 20_000, 2) * torch.tensor([1.0, 3.0]) + 5
    entropy = float(torch.distributions.Normal(0, torch.tensor([1.0, 3.0])).entropy().sum())
    assert marginal_nll(latent, latent) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize(("goal", "longest", "stops"), [(0.5, 1e9, 3), (2.0, 1e9, None), (2.0, -1.0, 1)])
def test_a_training_stops_at_its_goal_or_after_its_time(monkeypatch, goal, longest, stops):
    monkeypatch.setattr(gpu_training, "LONGEST", longest)
    scores = {1: 0.4, 2: 0.3, 3: 0.6, 4: 0.1}
    stopped = []
    trainer = SimpleNamespace(stop=lambda: stopped.append(until.reached.updates))
    until = gpu_training.UntilGoal(lambda trainer, row: scores[row["update"]], goal)
    until.on_start(trainer)
    for update in scores:
        until.on_validation(trainer, {"update": update})
        if stopped:
            break
    assert stopped == ([] if stops is None else [stops])
    assert until.reached.score == max(scores[update] for update in range(1, (stops or 4) + 1))


def test_trainings_report_their_last_update_and_their_score(source):
    data = dream_data(source, num_dreams=20, num_steps=16)
    memory = Memory(FRMDN(input_size=35, output_size=32, hidden_size=16))
    for reached in (
        train_memory(memory, source.memory, data, num_updates=2),
        train_vae(VAE(), frames_of(source, data), num_updates=2),
    ):
        assert reached.updates == 2
        assert reached.score < 0.9
