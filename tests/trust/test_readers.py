"""Readers of arbitrary bytes return what was written or name the file in one line. They run no code and use little memory."""

import json
import math
import os
import pickle
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests import toys
from tests.trust.damage import HOW, damaged, flipped
from tests.trust.properties import BOMB, OFFSET_AND_BIT, PLAIN, QUICK, one_line
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, seeded
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.provenance import save_config
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.density.config import DensityConfig
from worldmodel.agents.density.runs import load_density
from worldmodel.agents.evaluation import Report
from worldmodel.agents.evolution.evolve import evolve
from worldmodel.agents.runs.iteration import Iteration
from worldmodel.agents.runs.run_folder import Run
from worldmodel.corpora.image_files import read_cifar, read_cifar_pickle, read_idx
from worldmodel.io.files import from_json, read_json, read_jsonl, read_tensors, write_json, write_tensors
from worldmodel.registry import build, build_density, validate_fits_in_ram
from worldmodel.rollouts.policy.controllers import Controller, HiddenController, LinearController
from worldmodel.start_states import StartStates
from worldmodel.world_model import build_memory

# tensors --------------------------------------------------------------------------------------------------------------

NUMBERS = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.zeros(3).half(), "steps": torch.arange(3)}


@QUICK
@given(*OFFSET_AND_BIT)
def test_a_flipped_bit_in_weights_is_noticed(tmp_path, place, bit):
    path = tmp_path / "some.safetensors"
    write_tensors(path, NUMBERS)
    content = path.read_bytes()
    path.write_bytes(flipped(content, place % len(content), bit))
    found = one_line(path, read_tensors)
    assert found is None or (found.keys() == NUMBERS.keys() and all(torch.equal(found[n], NUMBERS[n]) for n in NUMBERS))


@QUICK
@given(st.binary(max_size=200))
@example(b"\x08\0\0\0\0\0\0\0" + b"[[[[[[[[")
@example(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")
def test_any_bytes_are_no_weights(tmp_path, content):
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    for read in (read_tensors, Controller.load):
        assert one_line(path, read) is None or read is read_tensors


def safetensors(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "I64", "BOOL", "C64", "F4", "nonsense"])
def test_weights_of_other_dtypes_are_refused(tmp_path, kind):
    size = {"I64": 8, "C64": 8}.get(kind, 1)
    parts, offset = {}, 0
    for name, shape in (("weight", [1, 2]), ("bias", [1])):
        count = math.prod(shape) * size
        parts[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    path = tmp_path / "controller.safetensors"
    path.write_bytes(safetensors(parts, bytes(offset)))
    one_line(path, Controller.load)
    (tmp_path / "starts.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="starts.safetensors"):
        StartStates.load(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_controller_that_is_not_finite_is_named(tmp_path, bad):
    path = tmp_path / "controller.safetensors"
    write_tensors(path, {"weight": torch.tensor([[bad, 1.0]]), "bias": torch.zeros(1)})
    assert one_line(path, Controller.load) is None


def test_controllers_are_loaded_bit_equal(tmp_path):
    for controller in (LinearController(3, 2, np.arange(8.0)), HiddenController(3, 2, hidden_units=4)):
        controller.save(tmp_path / "some.safetensors")
        assert torch.equal(Controller.load(tmp_path / "some.safetensors").parameters, controller.parameters)


# sizes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """Folder of a tiny world model."""
    WorldModel(VAE(2), Memory(FRMDN(3, 2, hidden_size=4, num_components=2))).save(tmp_path / "world")
    return tmp_path / "world"


HUGE = [
    ("vae", "latent_dim", 65_536),
    ("memory", "hidden_size", 65_536),
    ("memory", "num_layers", 65_536),
    ("memory", "num_couplings", 10**6),
    ("memory", "rank", 60_000),
    ("memory", "output_size", 65_535),
    ("memory", "hidden_size", 2.5),
    ("memory", "cell", "gru"),
    ("memory", "density", "os.system"),
    ("memory", "density", ["RMDN"]),
]


@pytest.mark.parametrize(("part", "name", "value"), HUGE)
def test_wrong_sizes_in_a_config_use_no_memory(world, part, name, value, as_users_do):
    config = read_json(world / "config.json")
    config[part][name] = value
    write_json(world / "config.json", config)
    started, before = time.process_time(), peak()
    with pytest.raises(ValueError, match=r"config\.json|vae\.safetensors|memory\.safetensors"):
        WorldModel.load(world)
    assert time.process_time() - started < 5
    assert peak() - before < 200e6


def peak():
    """Peak memory of this process in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_vae_of_a_run_has_the_size_of_its_weights(tmp_path):
    vae = VAE(2)
    write_tensors(tmp_path / "vae" / "weights.safetensors", vae.state_dict())
    for latent in (60_000, 10**9, "many", None):
        write_json(tmp_path / "vae" / "settings.json", {"model_config": {"latent_dim": latent}})
        with pytest.raises(ValueError, match=r"settings\.json|weights\.safetensors"):
            Run(tmp_path).vae()
    write_json(tmp_path / "vae" / "settings.json", {"model_config": vae.config})
    assert torch.equal(Run(tmp_path).vae().posterior.weight, vae.posterior.weight)


@pytest.mark.parametrize(
    "name", ["event_dim", "hidden_size", "num_components", "num_layers", "latent_dim", "width", "depth"]
)
def test_every_builder_refuses_absurd_sizes(name):
    kind = "vrnn-gmm" if name in ("latent_dim", "width", "depth") else "frmdn"
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        build(**{"name": kind, "event_dim": 2, name: 10**6})
    described = build(kind, 2, hidden_size=2, num_components=2).config
    described |= {name: 10**6} if name in described else {"hidden_size": 10**6}
    with pytest.raises(ValueError, match=r"\b1000000\b|" + rf"\b({name}|hidden)\b"):
        build_density(described)


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_built():
    with torch.device("meta"):
        validate_fits_in_ram(build_memory({"density": "RMDN", "input_size": 3, "output_size": 2}))
        huge = build_memory(
            {
                "density": "RMDN",
                "input_size": 60_001,
                "output_size": 60_000,
                "hidden_size": 60_000,
                "num_components": 900,
            }
        )
    with pytest.raises(ValueError, match="parameters"):
        validate_fits_in_ram(huge)


# states ---------------------------------------------------------------------------------------------------------------


def evolved(folder):
    return evolve(LinearController(2, 1), lambda members, seed: -np.square(members - 1).sum(axis=1), population=4,
                  generations=2, seed=1, out=folder)  # fmt: skip


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Folder of a finished evolution, the content of its state, and its best controller."""
    folder = tmp_path_factory.mktemp("search")
    best = evolved(folder)
    return folder, (folder / "state.npz").read_bytes(), best


@QUICK
@given(*OFFSET_AND_BIT)
def test_a_flipped_bit_in_an_evolution_is_noticed(search, place, bit):
    folder, content, best = search
    (folder / "state.npz").write_bytes(flipped(content, place % len(content), bit))
    found = one_line(folder / "state.npz", lambda path: evolved(path.parent))
    assert found is None or torch.equal(found.parameters, best.parameters)


@pytest.mark.parametrize("how", HOW[:4])
def test_a_damaged_evolution_is_named(search, how):
    folder, content, _ = search
    (folder / "state.npz").write_bytes(damaged(content, how))
    assert one_line(folder / "state.npz", lambda path: evolved(path.parent)) is None


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Folder of a finished training, and the contents of its files."""
    folder = tmp_path_factory.mktemp("training")
    trained(folder)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def trained(folder):
    data = toys.Sequences(lambda size, seed: toys.autoregressive(size, 4, seed)[0].float())
    with seeded(1):
        model = build("rmdn", 1, hidden_size=2, num_components=1)
    return fit(model, data, num_updates=4, batch_size=2, eval_every=2, out=folder, tensorboard=False)


@QUICK
@given(*OFFSET_AND_BIT)
def test_a_flipped_bit_in_a_training_is_noticed(training, place, bit):
    folder, files = training
    content = files["resume.pt"]
    (folder / "resume.pt").write_bytes(flipped(content, place % len(content), bit))
    if one_line(folder / "resume.pt", lambda path: trained(path.parent)) is not None:
        assert read_tensors(folder / "weights.safetensors").keys() == trained(folder).state_dict().keys()
        assert (folder / "weights.safetensors").read_bytes() == files["weights.safetensors"]


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("how", HOW)
def test_damaged_outputs_of_a_training_are_restored(training, name, how):
    folder, files = training
    (folder / "resume.pt").write_bytes(files["resume.pt"])
    (folder / name).write_bytes(damaged(files[name], how, name))
    trained(folder)
    assert (folder / name).read_bytes() == files[name]


def test_malicious_pickles_are_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "resume.pt").write_bytes(pickle.dumps(Hostile()))
    assert one_line(tmp_path / "resume.pt", lambda path: trained(path.parent)) is None
    with zipfile.ZipFile(tmp_path / "resume.pt", "w") as parts:
        parts.writestr("archive/data.pkl", pickle.dumps(Hostile()))
        parts.writestr("archive/version", "3\n")
    assert one_line(tmp_path / "resume.pt", lambda path: trained(path.parent)) is None
    with zipfile.ZipFile(tmp_path / "state.npz", "w") as parts:
        parts.writestr("about.npy", pickle.dumps(Hostile()))
    assert one_line(tmp_path / "state.npz", lambda path: evolved(path.parent)) is None
    assert not (tmp_path / "executed").exists()


# text -----------------------------------------------------------------------------------------------------------------


@QUICK
@given(st.sampled_from([Report, Iteration, DensityConfig]), PLAIN)
@example(Report, {"env": "x", "returns": [], "lengths": [], "seeds": []})
@example(Report, {"env": "x", "returns": ["1"], "lengths": [1], "seeds": [1]})
def test_any_json_is_a_record_or_named(tmp_path, kind, content):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    one_line(path, lambda path: from_json(kind, read_json(path), path))
    one_line(path, Report.load)


def test_a_report_with_invalid_values_is_named(tmp_path):
    path = tmp_path / "report.json"
    good = Report("CartPole-v1", [1.0, 2.0], [1, 2], [3, 4])
    good.save(path)
    assert Report.load(path) == good
    for name, value in (("returns", "abc"), ("returns", [1.0]), ("returns", [True, 1.0]), ("seeds", [1.5, 2.0]),
                        ("returns", [10**400, 1]), ("env_options", []), ("flags", 3)):  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        assert one_line(path, Report.load) is None, (name, value)
        good.save(path)


@pytest.mark.parametrize(
    "text", [BOMB, "[" * 500, "a: " * 50, "seed: 2026-99-99", "seed: " + "9" * 5_000, "!!python/object:os.system {}",
             "- list", "3", "", "a: b: c", "\x00", "!!binary x"]
)  # fmt: skip
def test_hostile_yaml_gives_one_error_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert one_line(path, read_yaml) is None
    assert one_line(path, lambda path: save_config(RunConfig("CartPole-v1"), path)) is None
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert one_line(path, lambda path: load_density(path.parent)) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\xff", "9" * 5_000, "", '{"a": 1'])
def test_hostile_json_gives_one_error_line(tmp_path, text):
    path = tmp_path / "some.json"
    path.write_text(text, encoding="latin-1")
    assert one_line(path, read_json) is None
    assert text == "" or one_line(path, read_jsonl) is None


@pytest.mark.parametrize("value", [-1.0, 1e400, "long", None, [1]])
def test_invalid_timings_are_named(tmp_path, value):
    (tmp_path / "timings.json").write_text(json.dumps({"collect": value}))
    assert one_line(tmp_path / "timings.json", lambda path: Run(path.parent).timings()) is None


# corpora (audio: tests/worldmodel/corpora) ----------------------------------------------------------------------------


@QUICK
@given(
    st.sampled_from([b"", b"\0\0\x08\x03", b"\x1f\x8b\x08", pickle.dumps({b"data": [1]})[:20]]), st.binary(max_size=80)
)
@pytest.mark.parametrize("read", [read_idx, read_cifar, read_cifar_pickle])
def test_any_bytes_are_images_or_named(tmp_path, read, head, rest):
    path = tmp_path / "images"
    path.write_bytes(head + rest)
    one_line(path, read)
