"""The device of trainings: names, the variable, torchrun's own GPU, and errors before anything is trained."""

import os

import pytest
import torch
from torch.utils.data import TensorDataset

from tests.command_line import exit_code, refused
from worldmodel import VAE, fit
from worldmodel.training import devices
from worldmodel.training.devices import VARIABLE, device_name, resolve_device


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def gpus(monkeypatch, count: int, mps: bool = False) -> None:
    """Let torch report GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("count", "given", "rank", "found"),
    [
        (0, "auto", "0", "cpu"),
        (0, None, "0", "cpu"),
        (2, None, "0", "cuda:0"),
        (2, "auto", "1", "cuda:1"),
        (2, "cuda", "1", "cuda:1"),
        (2, "cuda:1", "0", "cuda:1"),
        (2, "cpu", "0", "cpu"),
        (2, torch.device("cuda", 1), "0", "cuda:1"),
    ],
)
def test_a_device_is_resolved(monkeypatch, count, given, rank, found):
    gpus(monkeypatch, count)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(resolve_device(given)) == found


def test_the_variable_is_the_default_and_an_argument_wins(monkeypatch):
    gpus(monkeypatch, 2, mps=True)
    monkeypatch.setenv(VARIABLE, "mps")
    assert resolve_device() == torch.device("mps")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv(VARIABLE, "tpu")
    with pytest.raises(ValueError, match="tpu"):
        resolve_device()


@pytest.mark.parametrize(
    "name", ["tpu", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:2", "mps", "cpu:1", "meta", "", " "]
)
def test_other_devices_are_refused_by_name(monkeypatch, name):
    gpus(monkeypatch, 2)
    if name == "":
        assert str(resolve_device(name)) == "cuda:0"  # an empty variable is unset
        return
    with pytest.raises(ValueError, match="device") as error:
        resolve_device(name)
    assert repr(name) in str(error.value)


def test_a_device_has_a_name():
    assert "cpu" in device_name(torch.device("cpu"))
    assert str(torch.get_num_threads()) in device_name(torch.device("cpu"))


def test_fit_takes_a_device():
    frames = TensorDataset(torch.zeros(8, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="device"):
        fit(VAE(latent_dim=2), frames, num_updates=1, device="tpu")


def test_the_command_line_sets_device_and_threads_for_one_command(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(
        "worldmodel.agents.pipeline.stages.train_vae",
        lambda *_: seen.append((os.environ[VARIABLE], torch.get_num_threads())),
    )
    before = torch.get_num_threads()
    assert exit_code("train", "vae", str(tmp_path), "--device", "cpu", "--threads", "3") == 0
    assert seen == [("cpu", 3)]
    assert "device: cpu" in capsys.readouterr().err
    assert (torch.get_num_threads(), VARIABLE in os.environ) == (before, False)
    for option, value in (("--device", "tpu"), ("--device", "cuda:9"), ("--threads", "0")):
        line = refused(capsys, "train", "vae", str(tmp_path), option, value)
        assert option.strip("-") in line
        assert value in line
    assert len(seen) == 1


def test_doctor_reports_a_variable_with_another_device(monkeypatch):
    from worldmodel.agents.cli import doctor

    assert doctor._device().ok
    gpus(monkeypatch, 0)
    monkeypatch.setenv(VARIABLE, "cuda")
    check = doctor._device()
    assert not check.ok
    assert VARIABLE in check.advice


def test_all_kinds_of_devices_are_known_to_torch():
    assert {torch.device(kind).type for kind in devices.KINDS} == {*devices.KINDS}


def test_the_variable_holds_during_a_command_without_the_option(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("worldmodel.agents.pipeline.stages.train_vae", lambda *_: seen.append(str(resolve_device())))
    gpus(monkeypatch, 2)
    monkeypatch.setenv(VARIABLE, "cpu")
    assert exit_code("train", "vae", str(tmp_path)) == 0
    assert (seen, os.environ[VARIABLE]) == (["cpu"], "cpu")


def test_too_many_threads_are_refused(tmp_path, capsys):
    assert "threads" in refused(capsys, "train", "vae", str(tmp_path), "--threads", "2147483648")
