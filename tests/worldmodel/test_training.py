"""`fit`: training, resuming, stopping and refusing bad arguments."""

import itertools
import json
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from worldmodel import FRMDN, VAE, Memory, TrainingDiverged, fit, seeded
from worldmodel.batches import Loss, SequenceBatch
from worldmodel.training.callbacks import WandB
from worldmodel.training.loaders import LoaderData, as_data
from worldmodel.training.trainer import Trainer, TrainingCallback

PUBLISHED_VAE = True


class Line(nn.Module):
    """y = w x + b, with noise in the loss, so that tests also cover the random state."""

    config = {"kind": "line"}

    def __init__(self, nan_after=None, spikes_at=(), nan_gradients_at=()):
        super().__init__()
        self.layer, self.calls = nn.Linear(1, 1), 0
        self.nan_after, self.spikes_at, self.nan_gradients_at = nan_after, spikes_at, nan_gradients_at

    def loss(self, batch, generator=None):
        self.calls += 1
        x = batch + 0.01 * torch.randn(batch.shape, generator=generator)
        value = (self.layer(x) - 3 * batch - 1).square().mean()
        if self.nan_after is not None and self.calls > self.nan_after:
            value = value * float("nan")
        if self.calls in self.spikes_at:
            value = value * 1e8
        if self.calls in self.nan_gradients_at:
            value = value + (0 * self.layer.weight).square().sum().sqrt()  # zero, but its gradient is NaN
        return Loss(value, {"error": value.detach()})


class Numbers:
    """Random numbers. Only the training split is drawn from, and only the held-out split is iterated."""

    identity = "numbers"

    def __init__(self, split_name="all", held_out_at=1.0):
        self.split_name, self.held_out_at = split_name, held_out_at

    def split(self, fraction, seed):
        assert self.split_name == "all"
        return Numbers("training", self.held_out_at), Numbers("held out", self.held_out_at)

    def batch(self, size, rng):
        assert self.split_name == "training"
        return torch.from_numpy(rng.normal(size=(size, 1)).astype(np.float32))

    def batches(self, size):
        assert self.split_name == "held out"
        yield torch.linspace(-self.held_out_at, self.held_out_at, size)[:, None]


class Stop(Exception):
    pass


def line(**arguments):
    with seeded(0):
        return Line(**arguments)


SETTINGS = {
    "num_updates": 200,
    "batch_size": 16,
    "learning_rate": 0.05,
    "eval_every": 20,
    "seed": 3,
    "tensorboard": False,
}


def test_fit_finds_the_known_weight(tmp_path):
    model = fit(line(), Numbers(), **SETTINGS | {"num_updates": 400}, out=tmp_path)
    assert float(model.layer.weight.detach()) == pytest.approx(3, abs=0.05)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(20, 401, 20))
    assert rows[-1]["held_out"]["error"] < rows[0]["held_out"]["error"]
    assert not model.training


@pytest.mark.parametrize("at", [37, pytest.param(60, marks=pytest.mark.slow)])
def test_resumed_training_equals_uninterrupted_training(tmp_path, monkeypatch, at):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    uninterrupted = fit(line(), Numbers(), **SETTINGS, out=tmp_path / "whole")

    def stop(done, total, note):
        if done == at:
            raise Stop

    with pytest.raises(Stop):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path / "stopped", progress=stop)
    resumed = fit(line(), Numbers(), **SETTINGS, out=tmp_path / "stopped")
    assert resumed.layer.weight.equal(uninterrupted.layer.weight)
    for name in ("metrics.jsonl", "weights.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize("at", [37, pytest.param(60, marks=pytest.mark.slow)])
def test_ctrl_c_saves_the_current_update(ctrl_c, tmp_path, at):
    """Also between evaluations: no update is repeated, and the metrics equal those of uninterrupted training."""

    def press(update, updates, note):
        if update == at:
            os.kill(os.getpid(), signal.SIGINT)

    uninterrupted = fit(line(), Numbers(), **SETTINGS, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path / "parts", progress=press)
    updates_seen = []
    watch = lambda update, updates, note: updates_seen.append(update)  # noqa: E731
    resumed = fit(line(), Numbers(), **SETTINGS, out=tmp_path / "parts", progress=watch)
    assert updates_seen[0] == at + 1
    for name, weight in uninterrupted.state_dict().items():
        assert weight.equal(resumed.state_dict()[name])
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parts" / "metrics.jsonl").read_text()


def test_ctrl_c_during_evaluation_saves_the_update(ctrl_c, tmp_path, monkeypatch):
    uninterrupted, evaluate, calls = fit(line(), Numbers(), **SETTINGS, out=tmp_path / "whole"), Trainer.evaluate, []

    def press(loop):
        calls.append(loop)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(loop)

    monkeypatch.setattr(Trainer, "evaluate", press)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path / "parts")
    updates_seen = []
    resumed = fit(
        line(),
        Numbers(),
        **SETTINGS,
        out=tmp_path / "parts",
        progress=lambda update, *rest: updates_seen.append(update),
    )
    assert updates_seen[0] == 3 * SETTINGS["eval_every"] + 1
    assert resumed.layer.weight.equal(uninterrupted.layer.weight)


def test_finished_training_is_not_repeated(tmp_path):
    first = fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    second = line()
    fit(second, Numbers(), **SETTINGS, out=tmp_path)
    assert second.calls == 0
    assert second.layer.weight.equal(first.layer.weight)


def test_nan_loss_stops_training_and_keeps_the_best_weights(tmp_path):
    model = line(nan_after=50)
    with pytest.raises(TrainingDiverged, match=r"\bLine\b.*\bnan\b"):
        fit(model, Numbers(), **SETTINGS, out=tmp_path)
    assert torch.isfinite(model.layer.weight).all()
    assert (tmp_path / "weights.safetensors").exists()


class Drifting(Line):
    """The training loss is the same; the held-out loss is lowest at slope 1, which training only passes through."""

    def loss(self, batch, generator=None):
        if self.training:
            return super().loss(batch, generator)
        value = (self.layer.weight - 1).square().sum()
        return Loss(value, {"error": value.detach()})


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    with seeded(0):
        model = fit(Drifting(), Numbers(), **SETTINGS | {"eval_every": 5}, out=tmp_path)
    rows = [json.loads(row)["held_out"]["loss"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert min(rows) < 0.1 < rows[-1]
    assert float((model.layer.weight.detach() - 1).square()) == pytest.approx(min(rows), rel=1e-4)


class Uneven(Numbers):
    """Ten held-out numbers in batches of any size, of which the last may be smaller."""

    def split(self, fraction, seed):
        return Numbers("training"), Uneven("held out")

    def batches(self, size):
        yield from (torch.arange(10.0)[:, None] ** 2).split(size)


class BatchMean(Line):
    """The loss is the mean of the batch."""

    def loss(self, batch, generator=None):
        return Loss(batch.mean() + 0 * self.layer.weight.sum(), {"error": batch.mean()})


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_a_smaller_last_batch_counts_less_in_the_held_out_loss(tmp_path, batch_size):
    fit(BatchMean(), Uneven(), **SETTINGS | {"num_updates": 1, "batch_size": batch_size}, out=tmp_path)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text())["held_out"]
    assert metrics == pytest.approx({"loss": 28.5, "error": 28.5})


@pytest.mark.parametrize("spikes_at", [(60,), (60, 61, 62)])
def test_loss_spikes_do_not_harm_training(spikes_at):
    model = fit(line(spikes_at=spikes_at), Numbers(), **SETTINGS | {"num_updates": 400})
    assert float(model.layer.weight.detach()) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("max_grad_norm", "expected_norm"), [(0.25, 0.25), (1e9, None), (None, None)])
def test_gradients_are_clipped_to_the_maximum_norm(max_grad_norm, expected_norm):
    def gradients(**more):
        model = fit(line(), Numbers(), **(SETTINGS | {"num_updates": 1} | more))
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    unclipped, clipped = gradients(), gradients(max_grad_norm=max_grad_norm)
    assert float(unclipped.norm()) > 1
    torch.testing.assert_close(
        clipped, unclipped if expected_norm is None else unclipped * (expected_norm / unclipped.norm())
    )


def test_model_may_set_its_own_max_grad_norm():
    model = line()
    model.max_grad_norm = 0.25
    fit(model, Numbers(), **(SETTINGS | {"num_updates": 1}))
    assert float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()) == pytest.approx(0.25)
    fit(model, Numbers(), **(SETTINGS | {"num_updates": 1, "max_grad_norm": 0.5}))
    assert float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()) == pytest.approx(0.5)


def test_updates_with_nan_gradients_are_skipped():
    model = fit(line(nan_gradients_at=(5, 6, 90)), Numbers(), **SETTINGS | {"num_updates": 400})
    assert float(model.layer.weight.detach()) == pytest.approx(3, abs=0.1)
    with pytest.raises(TrainingDiverged, match=r"\bLine\b.*\b20\b"):
        fit(line(nan_gradients_at=range(50, 10_000)), Numbers(), **SETTINGS)


def test_refused_training_does_not_change_the_model_or_the_folder(tmp_path):
    fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = line().eval()
    with pytest.raises(ValueError, match=r"\bseed\b"):
        fit(model, Numbers(), **SETTINGS | {"seed": 4, "tensorboard": True}, out=tmp_path)
    assert not model.training
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Sequences:
    """Random walks whose next step is partly predictable."""

    identity = "walks"

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        z = (0.5 * rng.normal(size=(size, 9, 4))).cumsum(1)
        parts = z[:, :-1], rng.normal(size=(size, 8, 2)), z[:, 1:], z[:, 1:, 0], np.zeros((size, 8)), np.ones((size, 8))
        return SequenceBatch(*(torch.from_numpy(np.asarray(part, np.float32)) for part in parts))

    def batches(self, size):
        yield self.batch(8 if isinstance(self, GreyFrames) else 64, np.random.default_rng(1))


class GreyFrames(Sequences):
    """Frames of a single grey level."""

    def batch(self, size, rng):
        brightness = rng.integers(0, 255, (size, 1, 1, 1)).astype(np.uint8)
        return torch.from_numpy(np.broadcast_to(brightness, (size, 64, 64, 3)).copy())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "memory"])
def test_bfloat16_training_matches_float32(tmp_path, kind):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        with seeded(0):
            model = VAE(latent_dim=2) if kind == "vae" else Memory(FRMDN(6, 4, hidden_size=8, rank=1))
        data, updates = (GreyFrames(), 6) if kind == "vae" else (Sequences(), 40)
        fit(
            model,
            data,
            num_updates=updates,
            batch_size=4,
            learning_rate=2e-3,
            seed=1,
            dtype=dtype,
            tensorboard=False,
            out=tmp_path / dtype,
        )
        rows = [json.loads(row) for row in (tmp_path / dtype / "metrics.jsonl").read_text().splitlines()]
        losses[dtype] = rows[-1]["held_out"]["loss" if kind == "vae" else "nll"]
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.25 if kind == "vae" else 0.05)
    with pytest.raises(ValueError, match="dtype"):
        fit(line(), Numbers(), dtype="half")


def test_patience_stops_training_early(tmp_path):
    model = line()
    rows = []
    fit(model, Numbers(), **SETTINGS | {"num_updates": 5_000, "patience": 3, "learning_rate": 0.3}, out=tmp_path,
        progress=lambda done, total, note: rows.append(done))  # fmt: skip
    assert rows[-1] < 5_000
    losses = [json.loads(row)["held_out"]["loss"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) - 1 - int(np.argmin(losses)) == 3


def test_a_resumed_training_without_patience_left_does_not_train_on(ctrl_c, tmp_path):
    """Ctrl-C comes during the last validation before the end."""
    settings = SETTINGS | {"num_updates": 5_000, "patience": 3, "learning_rate": 0.3}
    whole = fit(line(), Numbers(), **settings, out=tmp_path / "whole")

    class Press(TrainingCallback):
        def on_validation(self, trainer, row):
            if trainer.state.stale == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **settings, out=tmp_path / "parts", callbacks=[Press()])
    model = line()
    fit(model, Numbers(), **settings, out=tmp_path / "parts")
    assert model.calls == 0
    assert model.layer.weight.equal(whole.layer.weight)
    assert (tmp_path / "parts" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_each_plateau_quarters_the_learning_rate_and_the_last_one_stops(tmp_path):
    """Also of a training that is stopped in between."""
    settings = SETTINGS | {
        "num_updates": 20_000,
        "eval_every": 100,
        "patience": 2,
        "num_decays": 2,
        "learning_rate": 0.3,
    }
    rates = []

    class Record(TrainingCallback):
        def on_validation(self, trainer, row):
            rates.append((trainer.optimizer.param_groups[0]["lr"], trainer.state.decays))
            if len(rates) == stop_after:
                os.kill(os.getpid(), signal.SIGINT)

    stop_after = 0
    whole = fit(line(), Numbers(), **settings, out=tmp_path / "whole", callbacks=[Record()])
    first, rates = rates, []
    assert [rate for rate, _ in itertools.groupby(rate for rate, _ in first)] == pytest.approx([0.3, 0.075, 0.01875])
    rows = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["held_out"]["loss"] for row in rows]
    for decays in range(3):  # every phase ends two validations after its lowest loss, or after the lowest one before it
        end = max(index for index, (rate, _) in enumerate(first) if rate == pytest.approx(0.3 / 4**decays))
        start = max((index for index, (rate, _) in enumerate(first) if rate > 0.35 / 4**decays), default=-1)
        assert end - max(int(np.argmin(losses[: end + 1])), start) == 2
    stop_after = 1 + next(index for index, (_, decays) in enumerate(first) if decays == 1)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **settings, out=tmp_path / "parts", callbacks=[Record()])
    stop_after = 0
    resumed = fit(line(), Numbers(), **settings, out=tmp_path / "parts", callbacks=[Record()])
    assert resumed.layer.weight.equal(whole.layer.weight)
    assert rates == first


@pytest.mark.parametrize("options", [{"num_decays": 1}, {"num_decays": -1, "patience": 2}])
def test_plateaus_need_a_patience_and_a_count(options):
    with pytest.raises(ValueError, match="num_decays"):
        fit(line(), Numbers(), **options)


def test_resuming_with_other_settings_is_refused(tmp_path):
    fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    with pytest.raises(ValueError, match=r"\blearning_rate = 0\.05\b.*\b0\.1\b"):
        fit(line(), Numbers(), **SETTINGS | {"learning_rate": 0.1}, out=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04rubbish", b"PK\x03\x04 half a zip"])
def test_damaged_resume_file_is_named(tmp_path, content):
    fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"resume.pt"):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path)


def test_a_flipped_bit_of_a_saved_weight_is_detected(tmp_path):
    model, path = fit(line(), Numbers(), **SETTINGS, out=tmp_path), tmp_path / "resume.pt"
    content = bytearray(path.read_bytes())
    content[content.index(model.layer.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"resume.pt"):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path)


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"settings": {}, "evil": Evil()}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=r"resume\.pt"):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    assert not (tmp_path / "owned").exists()


def test_fit_does_not_change_global_randomness():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit(line(), Numbers(), **SETTINGS)
    assert before[0].equal(torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_updates", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("val_fraction", 1.0),
        ("seed", -1),
        ("max_grad_norm", 0.0),
        ("split_seed", -1),
    ],
)
def test_bad_arguments_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        fit(line(), Numbers(), **SETTINGS | {name: value})


def test_tensorboard_files_are_written(tmp_path):
    fit(line(), Numbers(), **SETTINGS | {"tensorboard": True, "num_updates": 20}, out=tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "change", [{"model": 7}, {"optimizer": {}}, {"progress": {"far": 1}}, {"best": {}}, {"progress": None}]
)
def test_resume_file_with_wrong_contents_is_named(tmp_path, change):
    fit(line(), Numbers(), **SETTINGS, out=tmp_path)
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    torch.save(saved | change, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=r"resume.pt"):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path)


def test_full_disk_raises_oserror(tmp_path, monkeypatch):
    def raise_full_disk(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("worldmodel.training.checkpoint.write_bytes", raise_full_disk)
    with pytest.raises(OSError):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path)


def final_weights(folder, stop_at=(), data=None, **settings):
    """Weights after training that is interrupted at each of ``stop_at`` and resumed by the same call."""
    for at in stop_at:

        def interrupt(done, total, note, at=at):
            if done == at and "loss" in note:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(line(), data or Numbers(), **SETTINGS | settings, out=folder, progress=interrupt)
    model = fit(line(), data or Numbers(), **SETTINGS | settings, out=folder)
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("at", [(201,), (215, 259)])
def test_more_updates_continue_a_finished_training_despite_interrupts(tmp_path, monkeypatch, at):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)  # every evaluation saves
    assert torch.equal(final_weights(tmp_path / "a"), final_weights(tmp_path / "b"))
    uninterrupted = final_weights(tmp_path / "a", num_updates=270)
    assert torch.equal(uninterrupted, final_weights(tmp_path / "b", at, num_updates=270))
    assert not torch.equal(uninterrupted, final_weights(tmp_path / "c"))
    for name in ("metrics.jsonl", "settings.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [*range(20, 261, 20), 270]
    assert json.loads((tmp_path / "a" / "settings.json").read_text())["num_updates"] == 270


def test_unfinished_training_completes_its_schedule_before_more_updates(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    final_weights(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path / "b", progress=lambda done, *_: interrupt_at(done, 90))
    more = {"num_updates": 240}
    assert torch.equal(final_weights(tmp_path / "a", **more), final_weights(tmp_path / "b", (150, 215), **more))


def test_second_schedule_starts_with_an_empty_optimizer_at_the_best_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    best, seen = final_weights(tmp_path / "first"), []
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path / "both", progress=lambda done, *_: interrupt_at(done, 90))

    def continue_training(self, *args, _continue=Trainer.continue_training):
        assert self.optimizer.state  # of the first schedule
        _continue(self, *args)
        seen.append((len(self.optimizer.state), torch.nn.utils.parameters_to_vector(self.model.parameters()).detach()))

    monkeypatch.setattr(Trainer, "continue_training", continue_training)
    final_weights(tmp_path / "both", num_updates=240)  # the first schedule ends in the same call
    [(moments, weights)] = seen
    assert moments == 0
    assert torch.equal(weights, best)


def interrupt_at(done, at):
    if done == at:
        raise KeyboardInterrupt


def test_second_schedule_warms_up_again_and_does_not_end_worse(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(
        Trainer,
        "loss",
        lambda self, *args, _loss=Trainer.loss: record_learning_rate(self, rates) or _loss(self, *args),
    )
    final_weights(tmp_path)
    first_loss = min(
        json.loads(row)["held_out"]["loss"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()
    )
    rates.clear()
    model = fit(line(), Numbers(), **SETTINGS | {"num_updates": 300}, out=tmp_path)
    assert max(rates) == pytest.approx(0.05) and rates[-1] < 0.0026
    x = torch.linspace(-1, 1, 16)[:, None]
    assert float((model.layer(x) - 3 * x - 1).square().mean().detach()) <= first_loss + 1e-3


def record_learning_rate(loop, rates):
    if loop.model.training:
        rates.append(loop.optimizer.param_groups[0]["lr"])


class Recorder(Line):
    """Records the first number of each batch and of its noise, of training and of evaluations."""

    def __init__(self):
        super().__init__()
        self.drawn = {True: [], False: []}

    def loss(self, batch, generator=None):
        self.drawn[self.training].append((float(batch[0]), float(torch.rand((), generator=generator))))
        return super().loss(batch, generator)


def test_every_update_has_another_batch_and_other_noise(tmp_path):
    """Also those of a second schedule; all evaluations have the same."""
    model = Recorder()
    for num_updates in (20, 30):
        fit(model, Numbers(), **SETTINGS | {"num_updates": num_updates, "eval_every": 10}, out=tmp_path)
    assert [len(set(part)) for part in zip(*model.drawn[True], strict=True)] == [30, 30]
    assert len(set(model.drawn[False])) == 1


def test_fewer_updates_are_refused_and_equal_updates_are_complete(tmp_path):
    before = final_weights(tmp_path)
    with pytest.raises(ValueError, match=r"updates = 200.*199"):
        final_weights(tmp_path, num_updates=199)
    notes = []
    fit(line(), Numbers(), **SETTINGS, out=tmp_path, progress=lambda *args: notes.append(args))
    assert [args[:2] for args in notes] == [(200, 200)]
    assert torch.equal(before, final_weights(tmp_path))


def test_resumed_training_reports_its_first_update(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, out=tmp_path, progress=lambda done, *_: interrupt_at(done, 90))
    notes = []
    fit(line(), Numbers(), **SETTINGS, out=tmp_path, progress=lambda *args: notes.append(args))
    assert notes[0][:2] == (81, 200) and "80" in notes[0][2]


@pytest.mark.slow
def test_new_data_start_a_new_schedule_if_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    new_data = Numbers(held_out_at=2.0)
    new_data.identity = {"count": 9}
    old_data = Numbers()
    old_data.identity = {"count": 8}
    final_weights(tmp_path / "a", data=old_data), final_weights(tmp_path / "b", data=old_data)
    with pytest.raises(ValueError, match="data"):
        final_weights(tmp_path / "a", data=new_data)
    allowed = {"data": new_data, "allow_new_data": True}
    uninterrupted = final_weights(tmp_path / "a", **allowed)
    assert torch.equal(uninterrupted, final_weights(tmp_path / "b", (290,), **allowed))
    rows = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["update"] == 400  # 200 more updates
    assert torch.equal(uninterrupted, final_weights(tmp_path / "a", **allowed))
    new_data.identity, new_data.form = {"count": 10, "windows": 2}, {"windows": 2}
    with pytest.raises(ValueError, match="data"):
        final_weights(tmp_path / "a", **allowed)


def test_out_must_be_a_folder_and_may_start_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="^out "):
        final_weights(tmp_path / "file")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    final_weights("~/there", num_updates=20)
    assert (tmp_path / "there" / "weights.safetensors").exists() and not (tmp_path / "~").exists()


class Splitting(Numbers):
    """Data that log the seeds of their splits."""

    def __init__(self):
        super().__init__()
        self.seeds = []

    def split(self, fraction, seed):
        self.seeds.append(seed)
        return super().split(fraction, seed)


def test_the_split_has_its_own_seed():
    data = Splitting()
    for split_seed in (None, 7):
        fit(line(), data, num_updates=1, batch_size=2, seed=3, split_seed=split_seed, tensorboard=False)
    assert data.seeds == [3, 7]


class Hooks(TrainingCallback):
    """The hooks in the order of their calls; stops after an update if asked to."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def on_start(self, trainer):
        self.calls.append("start")

    def on_update(self, trainer):
        self.calls.append(trainer.state.update)
        if trainer.state.update == self.stop_at:
            trainer.stop()

    def on_validation(self, trainer, row):
        self.calls.append(row["held_out"]["loss"])

    def on_interrupt(self, trainer):
        self.calls.append("interrupt")

    def on_end(self, trainer, error):
        self.calls.append(type(error))


def test_callbacks_see_every_hook_in_order(ctrl_c, tmp_path):
    seen = Hooks()
    fit(line(), Numbers(), **SETTINGS | {"num_updates": 4, "eval_every": 2}, out=tmp_path, callbacks=[seen])
    losses = [json.loads(row)["held_out"]["loss"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seen.calls == ["start", 1, 2, losses[0], 3, 4, losses[1], type(None)]

    seen = Hooks()
    press = lambda update, *rest: os.kill(os.getpid(), signal.SIGINT) if update == 2 else None  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fit(line(), Numbers(), **SETTINGS, callbacks=[seen], progress=press)
    assert seen.calls == ["start", 1, 2, "interrupt", KeyboardInterrupt]

    seen = Hooks()
    with pytest.raises(TrainingDiverged):
        fit(line(nan_after=1), Numbers(), **SETTINGS, callbacks=[seen])
    assert seen.calls == ["start", 1, TrainingDiverged]


def test_a_callback_may_stop_the_training(tmp_path):
    seen = Hooks(stop_at=7)
    fit(line(), Numbers(), **SETTINGS | {"eval_every": 5}, out=tmp_path, callbacks=[seen])
    assert seen.calls[-2:] == [7, type(None)]
    again = Hooks()
    fit(line(), Numbers(), **SETTINGS | {"eval_every": 5}, out=tmp_path, callbacks=[again])  # it is finished
    assert again.calls == ["start", type(None)]


class Pairs(torch.utils.data.Dataset):
    """Numbers with noise from torch's generator, and their indices."""

    def __init__(self, count=40):
        self.count, self.drawn = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.drawn.append(index)
        return {"x": torch.tensor([index / self.count]) + 0.1 * torch.randn(1), "index": index}


class LineOfPairs(Line):
    def loss(self, batch, generator=None):
        return super().loss(batch["x"], generator)


def loader(dataset, shuffle=True, **options):
    return torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=shuffle, **options)


def sources():
    """The arguments of `fit` for each kind of torch data: a dataset, loaders, and loaders with a generator or workers."""
    return {
        "dataset": lambda: {"data": Pairs()},
        "loader": lambda: {"data": loader(Pairs()), "validation": loader(Pairs(8), shuffle=False)},
        "generator": lambda: {"data": loader(Pairs(), generator=torch.Generator()), "validation": Pairs(8)},
        "workers": lambda: {"data": loader(Pairs(), num_workers=1), "validation": Numbers("held out")},
    }


def train_pairs(source, folder, **more):
    with seeded(0):
        model = LineOfPairs()
    torch.rand(1)  # the global generator must not matter
    settings = {"num_updates": 13, "batch_size": 8, "eval_every": 4, "learning_rate": 0.1, "tensorboard": False}
    return fit(model, **sources()[source](), **settings | more, out=folder)


@pytest.mark.parametrize("source", ["dataset", "loader", "generator", pytest.param("workers", marks=pytest.mark.slow)])
def test_trainings_on_torch_data_resume_bit_for_bit(tmp_path, monkeypatch, source):
    if source == "workers":
        monkeypatch.setattr(Numbers, "batches", lambda self, size: iter([{"x": torch.ones(size, 1)}]))
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    whole = train_pairs(source, tmp_path / "whole")
    for at in (7, 11):  # the loaders have 5 batches in a pass
        with pytest.raises(KeyboardInterrupt):
            train_pairs(source, tmp_path / "parts", progress=lambda done, *rest, at=at: interrupt_at(done, at))
    resumed = train_pairs(source, tmp_path / "parts")
    assert resumed.layer.weight.equal(whole.layer.weight) and resumed.layer.bias.equal(whole.layer.bias)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 4


def test_a_dataset_is_split_by_examples():
    data = as_data(Pairs(20))
    training, held_out = data.split(0.25, 1)
    assert len(held_out.indices) == 5
    assert sorted([*training.indices, *held_out.indices]) == list(range(20))
    indices = [int(index) for batch in held_out.batches(2) for index in batch["index"]]
    assert indices == sorted(held_out.indices)
    assert set(training.batch(200, np.random.default_rng(0))["index"].tolist()) == set(training.indices)
    with pytest.raises(ValueError, match=r"\bdata\b"):
        as_data(Pairs(1)).split(0.5, 1)


def test_a_loader_shows_each_example_once_in_a_pass_and_shuffles_again():
    data, other = LoaderData(loader(Pairs(16))), LoaderData(loader(Pairs(16)))
    passes = [[index for _ in range(2) for index in next(batches)["index"].tolist()]
              for batches in [data.passes(1, 0)] for _ in range(3)]  # fmt: skip
    assert all(sorted(indices) == list(range(16)) for indices in passes) and passes[0] != passes[1]
    assert next(other.passes(1, 3))["index"].tolist() == passes[1][8:]
    assert next(other.passes(2, 3))["index"].tolist() != passes[1][8:]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


@pytest.mark.parametrize(
    ("named", "data"),
    [
        ("validation", lambda: loader(Pairs())),
        ("data", lambda: torch.utils.data.DataLoader(Stream())),
        ("data", lambda: torch.utils.data.DataLoader([])),
        ("data", lambda: loader(Pairs(20), num_workers=1, persistent_workers=True)),
        ("data", lambda: [3][0]),
    ],
)
def test_data_that_cannot_be_used_are_refused(as_users_do, named, data):
    with pytest.raises(ValueError, match=f"^{named} "):
        fit(line(), data(), **SETTINGS)


def test_wandb_gets_each_validation_once_despite_an_interrupt(tmp_path, monkeypatch):
    logged, ids = [], []
    run = SimpleNamespace(log=logged.append, define_metric=lambda *a, **k: None, finish=lambda: None, url="", dir="x/y")
    wandb = SimpleNamespace(
        init=lambda **options: ids.append(options["id"]) or run, errors=SimpleNamespace(Error=OSError)
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(
            line(),
            Numbers(),
            **SETTINGS,
            out=tmp_path,
            progress=lambda done, *_: interrupt_at(done, 90),
            callbacks=[WandB()],
        )
    fit(line(), Numbers(), **SETTINGS, out=tmp_path, callbacks=[WandB()])
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in logged] == [row["update"] for row in rows]
    assert logged[-1]["held_out/loss"] == rows[-1]["held_out"]["loss"]
    assert len(ids) == 2 and len(set(ids)) == 1
