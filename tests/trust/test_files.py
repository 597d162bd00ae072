"""Every file of a run, spoilt: the command that reads it names it in one line, or repairs it to what it was."""

import re
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path

import pytest

from agents import stages
from agents.cli import main
from agents.config.schema import RunConfig
from tests.trust import runs
from tests.trust.damage import HOW, damaged
from tests.trust.properties import BOMB
from worldmodel import training

pytestmark = pytest.mark.slow
UNCHECKED = (".json", ".jsonl", ".yaml")
"""Text has no checksum: a flipped digit is another number."""
RETOLD = [
    "config.yaml",
    "timings.json",
    "rollouts/metadata.json",
    "rollouts/shards/000002.h5",
    "rollouts/latents/*/000001.latents.npy",
    "rollouts/latents/*/000001.actions.npy",
    "rollouts/latents/*/000001.json",
    "world/config.json",
    "world/vae.safetensors",
    "iterations/summary.json",
    "iterations/01/world/config.json",
    "iterations/01/world/memory.safetensors",
    "iterations/01/world-1/world/vae.safetensors",
    "iterations/01/episodes.json",
    "iterations/01/iteration.json",
    "iterations/02/iteration.json",
    "iterations/02/evolve-dream/controller.safetensors",
    "iterations/02/evolve-dream/metrics.jsonl",
    "evolve-game/state.npz",
    "evolve-game/metrics.jsonl",
    "evolve-game/controller.safetensors",
    "tests/game.json",
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """As the story was told; its pictures are another matter."""
    monkeypatch.setattr(stages, "fit", partial(training.fit, **runs.FIT))
    monkeypatch.setattr("agents.report.write_report", lambda *given: None)


@pytest.mark.parametrize("text", [BOMB, "- list", "[" * 2_000, "a: b: c", ""])
def test_a_hostile_configuration_is_one_line(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["run", "CartPole-v1", "--config", "config.yaml", "--out", "run"])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "config.yaml" in said
    assert "\n" not in said
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "name"), [("game:\n  start:\n", "game.init_from"), ("vae:\n  updates:\n", "vae.num_updates")]
)
def test_a_setting_without_a_value_is_named(tmp_path, monkeypatch, capsys, text, name):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    code, line = said(capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run")
    assert code == 2
    assert name.rpartition(".")[2] in line
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "name", [name for name, field in RunConfig.__dataclass_fields__.items() if is_dataclass(field.type)]
)
def test_a_section_without_a_value_is_named(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    for content in ("", "5", "[]", "true"):
        Path("config.yaml").write_text(f"seed: 1\n{name}: {content}\n")
        code, line = said(capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run")
        assert code == 2
        assert re.search(rf"\b{name}\b", line)
        assert not Path("run").exists()


def test_a_configuration_cut_anywhere_is_one_line(told, tmp_path, monkeypatch, capsys):
    """Whatever is left of it: a test of no episodes ends what could begin."""
    monkeypatch.chdir(tmp_path)
    whole = (told[0] / "run" / "config.yaml").read_text()
    ends = [place for place, letter in enumerate(whole) if letter == "\n"]
    for end in ends + [end - 1 for end in ends] + [end + 4 for end in ends]:
        Path("config.yaml").write_text(whole[:end])
        code, _ = said(capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run", "--eval.episodes", "0")
        assert code == 2, whole[:end]
        assert not Path("run").exists()


def said(capsys, *words):
    """A command's exit code, and what it said of errors: one line, or nothing."""
    try:
        code = main(list(words))
    except SystemExit as stop:  # the parser's own
        code = stop.code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("worldmodel", "Traceback"))]
    assert code in (0, 2)
    assert len(lines) == (code == 2), lines
    return code, "".join(lines)


RETELL = ("run", "CartPole-v1", "--config", "run/config.yaml", "--out", "run")


@pytest.mark.parametrize("name", RETOLD)
@pytest.mark.parametrize("how", ["truncated", "flipped anywhere"])
def test_a_run_goes_on_as_it_was_or_names_the_file(told, copied, capsys, name, how):
    path = next(copied.glob(name))
    content = damaged(path.read_bytes(), how, name)
    runs.spoil(path, content)
    code, line = said(capsys, *RETELL)
    if code == 2:
        assert path.name in line or name == "config.yaml", line
        return
    if path.suffix in UNCHECKED:
        return
    place = str(path.relative_to(copied))
    wanted, found = runs.results(told[0] / "run"), runs.results(copied)
    different = [file for file in wanted if found.get(file) != wanted[file]]
    assert different in ([], [place]), different
    assert place not in different or path.read_bytes() == content  # nobody read it


READ = {
    "inspect": (
        "rollouts/metadata.json",
        "rollouts/shards/000002.h5",
        "world/config.json",
        "world/vae.safetensors",
        "world/memory.safetensors",
        "timings.json",
        "tests/game.json",
    ),
    "evaluate": ("rollouts/metadata.json", "world/config.json", "evolve-game/controller.safetensors"),
}
MORE = {"evaluate": ("--eval.episodes", "1", "--eval.max_steps", "2", "--workers", "1")}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in READ.items() for name in names])
def test_a_command_names_what_it_cannot_read(copied, capsys, command, name):
    path = next(copied.glob(name))
    whole = path.read_bytes()
    for number, how in enumerate(HOW):
        runs.spoil(path, damaged(whole, how, name, number))
        code, line = said(capsys, command, "run", *MORE.get(command, ()))
        if code == 2:
            assert path.name in line or how.startswith("flipped"), (how, line)  # a flipped name of a game is one, too
        else:
            assert how.startswith("flipped") or path.suffix == ".h5", how


AGENT = ("config.json", "vae.safetensors", "memory.safetensors", "controller.safetensors", "report.json")


@pytest.mark.parametrize("name", AGENT)
def test_an_agent_s_folder_is_refused_by_the_file(copied, capsys, name):
    path = copied / "agent" / name
    whole = path.read_bytes()
    for number, how in enumerate(HOW):
        runs.spoil(path, damaged(whole, how, name, number))
        code, line = said(capsys, "inspect", "run/agent")
        assert path.name in line if code == 2 else how.startswith("flipped"), (how, line)
