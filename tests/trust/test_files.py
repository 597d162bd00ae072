"""Damaged files of a run: commands name the file in one line, or restore it."""

import re
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.trust import runs
from tests.trust.damage import HOW, damaged
from tests.trust.properties import BOMB
from worldmodel.agents.cli.main import main
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.pipeline import stages
from worldmodel.training import fit as training

pytestmark = pytest.mark.slow
UNCHECKED = (".json", ".jsonl", ".yaml")
"""Files of text, which have no checksum: a flipped digit gives another number."""
RERUN_FILES = [
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
    """Train as the undisturbed run did, and write no report."""
    monkeypatch.setattr(stages, "fit", partial(training.fit, **runs.FIT))
    monkeypatch.setattr("worldmodel.agents.analysis.report.write_report", lambda *given: None)


@pytest.mark.parametrize("text", [BOMB, "- list", "[" * 2_000, "a: b: c", ""])
def test_hostile_configurations_give_one_error_line(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["run", "CartPole-v1", "--config", "config.yaml", "--out", "run"])
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "config.yaml" in message
    assert "\n" not in message
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "name"), [("game:\n  init_from:\n", "game.init_from"), ("vae:\n  updates:\n", "vae.num_updates")]
)
def test_a_setting_without_a_value_is_named(tmp_path, monkeypatch, capsys, text, name):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    code, line = run_command(capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run")
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
        code, line = run_command(capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run")
        assert code == 2
        assert re.search(rf"\b{name}\b", line)
        assert not Path("run").exists()


def test_truncated_configurations_give_one_error_line(undisturbed_run, tmp_path, monkeypatch, capsys):
    """Wherever the file is cut. An evaluation of 0 episodes refuses the configurations that are still valid."""
    monkeypatch.chdir(tmp_path)
    whole = (undisturbed_run[0] / "run" / "config.yaml").read_text()
    ends = [index for index, letter in enumerate(whole) if letter == "\n"]
    for end in ends + [end - 1 for end in ends] + [end + 4 for end in ends]:
        Path("config.yaml").write_text(whole[:end])
        code, _ = run_command(
            capsys, "run", "CartPole-v1", "--config", "config.yaml", "--out", "run", "--eval.episodes", "0"
        )
        assert code == 2, whole[:end]
        assert not Path("run").exists()


def run_command(capsys, *args):
    """Run a command and return its exit code and its error line, empty on success."""
    try:
        code = main(list(args))
    except SystemExit as stop:  # raised by the parser
        code = stop.code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("worldmodel", "Traceback"))]
    assert code in (0, 2)
    assert len(lines) == (code == 2), lines
    return code, "".join(lines)


RERUN = ("run", "CartPole-v1", "--config", "run/config.yaml", "--out", "run")


@pytest.mark.parametrize("name", RERUN_FILES)
@pytest.mark.parametrize("how", ["truncated", "flipped anywhere"])
def test_a_run_continues_unchanged_or_names_the_file(undisturbed_run, run_copy, capsys, name, how):
    path = next(run_copy.glob(name))
    content = damaged(path.read_bytes(), how, name)
    runs.replace_content(path, content)
    code, line = run_command(capsys, *RERUN)
    if code == 2:
        assert path.name in line or name == "config.yaml", line
        return
    if path.suffix in UNCHECKED:
        return
    damaged_file = str(path.relative_to(run_copy))
    expected, found = runs.results(undisturbed_run[0] / "run"), runs.results(run_copy)
    different = [file for file in expected if found.get(file) != expected[file]]
    assert different in ([], [damaged_file]), different
    assert damaged_file not in different or path.read_bytes() == content  # no command read it


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
def test_a_command_names_what_it_cannot_read(run_copy, capsys, command, name):
    path = next(run_copy.glob(name))
    whole = path.read_bytes()
    for number, how in enumerate(HOW):
        runs.replace_content(path, damaged(whole, how, name, number))
        code, line = run_command(capsys, command, "run", *MORE.get(command, ()))
        if code == 2:
            # a flipped bit may give another valid name
            assert path.name in line or how.startswith("flipped"), (how, line)
        else:
            assert how.startswith("flipped") or path.suffix == ".h5", how


AGENT = ("config.json", "vae.safetensors", "memory.safetensors", "controller.safetensors", "report.json")


@pytest.mark.parametrize("name", AGENT)
def test_damaged_files_of_an_agent_are_named(run_copy, capsys, name):
    path = run_copy / "agent" / name
    whole = path.read_bytes()
    for number, how in enumerate(HOW):
        runs.replace_content(path, damaged(whole, how, name, number))
        code, line = run_command(capsys, "inspect", "run/agent")
        assert path.name in line if code == 2 else how.startswith("flipped"), (how, line)
