"""Paths: ``~`` is expanded in every path argument, and files and folders are not confused."""

import os
import re
from pathlib import Path

import pytest

from tests import toys
from tests.command_line import exit_code, refused
from worldmodel import WorldModel, rollouts
from worldmodel.agents import Agent, LinearController, Report
from worldmodel.agents.cli.main import build_parser
from worldmodel.agents.density import evaluate_density, sample_density
from worldmodel.agents.runs.run_folder import Run
from worldmodel.corpora import open_corpus
from worldmodel.io.files import locked, read_json, write_json
from worldmodel.io.paths import expand, folder_path
from worldmodel.rollouts import Store
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import StartStates


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder that is also the working folder, so that a folder named ``~`` would be found."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("~")]


def test_a_leading_tilde_is_the_home_folder_as_in_a_shell(home, monkeypatch):
    assert expand("~/a") == expand(Path("~/a")) == home / "a"
    assert expand("~") == home and expand("a/~") == Path("a/~") and expand("/a/~") == Path("/a/~")
    with pytest.raises(ValueError, match="~nobody-of-that-name"):
        expand("~nobody-of-that-name/a")
    (home / "inner" / "~").mkdir(parents=True)
    monkeypatch.chdir(home / "inner")
    assert expand(f".{os.sep}~") == home / "inner" / "~"
    (home / "inner" / "~").rmdir()


def test_python_writes_and_reads_below_home(home):
    store = rollouts.collect(toys.counter, toys.marking, 2, seed=1, out="~/s")
    assert len(Store("~/s")) == len(store) == 2 and store.path == home / "s"
    assert rollouts.estimate_collection(toys.counter, toys.marking, 1, out="~/new/s").free_bytes
    write_json("~/a.json", {"a": 1})
    assert read_json("~/a.json") == {"a": 1}
    with locked("~/lock"):
        pass
    controller = LinearController(3, 2)
    controller.save("~/c.safetensors")
    assert Controller.load("~/c.safetensors").size == controller.size
    assert Run("~/r").folder == home / "r"


@pytest.mark.parametrize(
    "call",
    [
        WorldModel.load,
        Agent.load,
        Store,
        Run,
        StartStates.load,
        evaluate_density,
        sample_density,
        lambda path: locked(path).__enter__(),
        lambda path: rollouts.collect(toys.counter, toys.marking, 1, out=path),
        lambda path: rollouts.collect(toys.counter, toys.marking, 1, out=path / "below"),
        lambda path: open_corpus(f"mnist:{path}"),
    ],
)
def test_a_file_is_no_folder(tmp_path, call):
    path = tmp_path / "a-file"
    path.write_text("{}")
    with pytest.raises(ValueError, match="a-file"):
        call(path)
    assert path.read_text() == "{}"


@pytest.mark.parametrize("call", [Controller.load, LinearController.load, Report.load, read_json])
def test_a_folder_is_no_file(tmp_path, call):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        call(tmp_path)


def test_writing_a_file_over_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        LinearController(3, 2).save(tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "a"))):
        (tmp_path / "a").touch()
        WorldModel.save(None, tmp_path / "a")  # refused before the world model is used


COMMANDS = [
    ["collect", "CartPole-v1", "--out", "FILE"],
    ["run", "CartPole-v1", "--out", "FILE"],
    ["train", "vae", "FILE"],
    ["train", "memory", "FILE"],
    ["evolve", "FILE"],
    ["compare", "FILE"],
    ["dream", "FILE"],
    ["dream", "FOLDER", "--store", "FILE"],
    ["play", "FILE"],
    ["export", "FILE", "--web", "FOLDER"],
    ["evaluate", "FILE"],
    ["inspect", "FILE"],
    ["density", "fit", "--data", "mnist:FILE", "--out", "FOLDER/d"],
    ["density", "evaluate", "FILE"],
    ["density", "sample", "FILE"],
    ["wandb", "FILE"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_commands_refuse_a_file_for_a_folder_in_one_line(home, words, capsys):
    (home / "a-file").write_text("x")
    (home / "a-folder").mkdir()
    words = [word.replace("FILE", "~/a-file").replace("FOLDER", "~/a-folder") for word in words]
    assert "a-file" in refused(capsys, *words)
    assert (home / "a-file").read_text() == "x" and not list((home / "a-folder").iterdir())


def test_the_command_line_expands_each_path(home, capsys):
    store = rollouts.collect(toys.counter, toys.marking, 2, seed=1, out="~/s")
    assert exit_code("inspect", "~/s", "--picture=~/sheet.png") == 0
    assert (home / "sheet.png").exists()
    (home / "vae.yaml").write_text("vae: {num_updates: none}\n")
    (home / "r").mkdir()
    assert "num_updates" in refused(capsys, "train", "vae", "~/r", "--config=~/vae.yaml")
    assert exit_code("train", "vae", "~/r", "--config", "~/r") == 2
    policy = "smooth,~/s"  # a folder, but of no agent
    assert "config.json" in refused(capsys, "collect", "CartPole-v1", "--out=~/c", "--collect.policy", policy)
    assert not (home / "c").exists() and len(store) == 2


def test_a_tilde_alone_is_the_home_folder():
    words = ["collect", "CartPole-v1", "--out=~"]
    assert build_parser(words).parse_args(words).collect.out == "~"


def test_home_of_an_unknown_user_is_refused(home, capsys):
    assert "~nobody-of-that-name" in refused(capsys, "collect", "CartPole-v1", "--out=~nobody-of-that-name/x")


def test_folder_path_names_the_argument(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="^web "):
        folder_path(tmp_path / "a" / "b" / "c", "web")
