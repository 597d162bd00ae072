"""The examples and the notebook run at a small size."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import worldmodel
from tests import toys
from worldmodel import rollouts, seeded
from worldmodel.agents import Agent, LinearController
from worldmodel.agents.evaluation import Report
from worldmodel.start_states import StartStates

PUBLISHED_VAE = True

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "story.ipynb"
SMALL = {
    "car_racing": ("0.02", "{tmp}/run"),
    "mario": ("0.02", "{tmp}/run"),
    "own_environment": ("0.02",),
    "density": ("0.02", "{tmp}/run"),
    "dream_with_sb3": ("0.01",),
}
"""Arguments that make each example run in seconds."""
EXPECTED_OUTPUT = {
    "car_racing": (r"dream\.gif", "CarRacing"),
    "mario": ("SuperMarioBros-1-1", r"evolved\.mp4"),
    "own_environment": ("n = 2",),
    "density": (r"-?\d+\.\d", r"drawn\.wav"),
    "dream_with_sb3": ("CarRacing", "n = 2"),
}
"""Patterns in the output of each example: files, environments and numbers."""


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL) == set(EXPECTED_OUTPUT)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))  # workers import the module of an example
    words = [word.format(tmp=tmp_path) for word in SMALL[name]]
    module = __import__(name)
    module.main(float(words[0]), *words[1:])
    output_text = capsys.readouterr().out
    for words in EXPECTED_OUTPUT[name]:
        assert re.search(words, output_text), (words, output_text)
    for path in re.findall(r": (\S+\.(?:gif|mp4|wav))", output_text):
        assert Path(path).stat().st_size > 1000
    sys.modules.pop(name)


def test_plucked_strings_have_a_pitch():
    """A string of 80 samples has a period of 80.5, because averaging neighbours delays by half a sample."""
    density = example("density")

    class Always(np.random.Generator):
        def integers(self, *bounds):
            return 80

    sound = density["pluck"](Always(np.random.PCG64(1)), seconds=1.0)
    assert len(sound) == density["RATE"]
    loudest, pitch = int(np.abs(np.fft.rfft(sound)).argmax()), 8_000 / 80.5  # in Hz
    assert loudest > 50
    assert abs(loudest - pitch * round(loudest / pitch)) <= 2


@pytest.mark.slow
def test_a_third_party_agent_learns_in_a_dream(tmp_path, monkeypatch):
    """Stable-Baselines3's PPO trains in a dream of Beacon."""
    store = rollouts.collect(toys.beacon, rollouts.uniform, 120, seed=3, out=tmp_path / "rollouts")
    with seeded(1):
        vae = worldmodel.VAE(latent_dim=2)
        memory = worldmodel.Memory(worldmodel.FRMDN(input_size=3, output_size=2, hidden_size=64))
    worldmodel.fit(vae, store.frames(), num_updates=60, batch_size=16)
    sequences = store.sequences(vae, seq_len=5)
    world = worldmodel.WorldModel(
        vae, worldmodel.fit(memory, sequences, num_updates=1200, batch_size=64, learning_rate=1e-2)
    )
    folder = tmp_path / "agent"
    Agent(world, LinearController.for_world_model(world)).save(folder)
    StartStates.from_episodes(store.latents(vae)).save(folder)
    Report("beacon", [0.0], [1], [0]).save(folder / "report.json")
    monkeypatch.setattr("worldmodel.envs.make", lambda env, **options: toys.beacon())
    main = example("dream_with_sb3")["main"]
    untrained, _ = main(0.003, folder)
    trained, _ = main(0.6, folder)
    assert trained > max(2.0, untrained + 1)  # of at most 5; trained only in the dream


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [size] = [cell for cell in notebook.cells if cell.source == "SIZE = 1.0"]
    size.source = "SIZE = 0.02"
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    executed = nbclient.NotebookClient(notebook, timeout=170, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    output_text = "".join(
        output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"
    )
    assert len(re.findall(r"CarRacing.*n = 2", output_text)) >= 3  # random, from dreams, from the game
    images = [output for output in outputs if {"image/png", "image/gif"} & set(output.get("data", {}))]
    assert len(images) == 5
    assert (tmp_path / "runs" / "example-story" / "dream.gif").stat().st_size > 1000
