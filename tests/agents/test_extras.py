"""Optional packages: a missing one gives one line with the command that installs it, an installed one works."""

import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest

from tests.command_line import refused
from worldmodel import rollouts
from worldmodel.agents.analysis.wandb_log import send
from worldmodel.agents.cli.main import main

ROOT = Path(__file__).parents[2]
NEEDS = [
    ("audio", "soundfile", "density fit --data audio:{tmp}/sounds --model rmdn --out {tmp}/run"),
    ("viewer", "starlette", "play car-racing --pretrained --port 0 --browser false"),
    ("viewer", "uvicorn", "play car-racing --pretrained --port 0 --browser false"),
    ("viewer", "websockets", "play car-racing --pretrained --port 0 --browser false"),
    ("onnx", "onnx", "export car-racing --pretrained --web {tmp}/page"),
    ("onnx", "onnxscript", "export car-racing --pretrained --web {tmp}/page"),
    ("cluster", "ray", "collect CartPole-v1 --workers 2@ray --out {tmp}/run"),
    ("cluster", "ray", "run CartPole-v1 --preset quick --workers 2@ray --out {tmp}/run"),
    ("cluster", "ray", "evaluate car-racing --pretrained --eval.episodes 1 --workers 2@ray"),
    ("games", "ale_py", "collect ALE/Pong-v5 --out {tmp}/run"),
    ("doom", "vizdoom", "collect doom-take-cover --out {tmp}/run"),
    ("minari", "minari", "inspect {tmp}/store --minari true"),
    ("wandb", "wandb", "wandb {tmp}/run"),
    ("hub", "huggingface_hub", "push car-racing user/car"),
    ("hub", "huggingface_hub", "pull user/car --out {tmp}/car"),
]
"""An extra, a package of it, and a command that needs it."""


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with sounds in a format that needs soundfile, and a run with metrics."""
    monkeypatch.chdir(tmp_path)
    for name in ("sounds", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "sounds" / "x.mp3").write_bytes(b"ID3" + bytes(100))
    rows = [{"update": 10 * n, "train": {"loss": 3.0 / n}, "held_out": {"loss": 4.0 / n}} for n in (1, 2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def hide(monkeypatch, package: str) -> None:
    """Make ``import package`` fail as if it were not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name == "worldmodel.agents.viewer.server":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    for name, spec in list(gymnasium.registry.items()):
        if str(spec.entry_point).startswith(package):  # registered by another test's import
            monkeypatch.delitem(gymnasium.registry, name)


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "package", "words"), NEEDS)
def test_missing_extras_give_one_line_with_the_install_command(workspace, monkeypatch, capsys, extra, package, words):
    if extra == "minari":
        rollouts.collect("CartPole-v1", rollouts.uniform, 1, seed=1, max_steps=3, out=workspace / "store")
    if extra == "cluster":
        (workspace / "run").rename(workspace / "not-a-run")
    hide(monkeypatch, package)
    assert f"pip install 'worldmodel[{extra}]'" in refused(capsys, *words.format(tmp=workspace).split())
    assert not list(workspace.glob("page/*"))


def test_every_extra_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {extra for extra, *_ in NEEDS} == set(project["optional-dependencies"]) - {"dev", "docs"}


def test_doctor_names_missing_extras(monkeypatch):
    from worldmodel.agents.cli import doctor

    hide(monkeypatch, "wandb")
    hide(monkeypatch, "minari")
    monkeypatch.setattr(doctor, "EXTRAS", {"wandb": "wandb", "yaml": "yaml", "minari": "minari"})
    monkeypatch.setattr(doctor, "_check_env", lambda name, advice: doctor.Check(name, True, ""))
    [state] = [check.state for check in doctor.run_checks() if check.name == "optional"]
    assert "yaml" in state and "pip install 'worldmodel[minari,wandb]'" in state


def test_minari_loads_a_run(tmp_path, capsys):
    pytest.importorskip("minari")
    store = rollouts.collect("CartPole-v1", rollouts.uniform, 2, seed=1, out=tmp_path / "rollouts")
    [one, two] = store.minari().iterate_episodes()
    assert [len(one.rewards), len(two.rewards)] == store.lengths
    assert main(["inspect", str(tmp_path), "--minari", "true"]) == 0
    assert str(store.steps) in capsys.readouterr().out
    (store.path / "minari-v0" / "data" / "metadata.json").unlink()
    with pytest.raises(ValueError, match=re.escape(str(store.path))):
        store.minari()


class Recorder(SimpleNamespace):
    """A stand-in for wandb that stores what is logged."""

    def __init__(self) -> None:
        super().__init__(logged=[], metrics={}, summary={}, url=None, dir="wandb/run/files", init_options=[])
        self.errors = SimpleNamespace(Error=OSError)

    def init(self, **options):
        self.init_options.append(options)
        return self

    def define_metric(self, name, step_metric=None, hidden=None):
        self.metrics[name] = step_metric

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        pass


def test_wandb_logs_every_row_once(workspace, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    folder = workspace / "run"
    (folder / "evolve-game").mkdir()
    file = folder / "evolve-game" / "metrics.jsonl"
    file.write_text('{"generation": 1, "mean": 5.0, "note": "text"}\n{"generation": 2, "me', encoding="utf-8")
    assert send(folder, "mine", "offline")[:3] == (3, 2, 0)
    assert recorder.metrics["evolve-game/*"] == "evolve-game/generation"
    assert {"evolve-game/generation": 1, "evolve-game/mean": 5.0} in recorder.logged
    assert {"update": 20, "train/loss": 1.5, "held_out/loss": 2.0} in recorder.logged
    assert send(folder)[0] == 0
    file.write_text('{"generation": 1, "mean": 5.0}\n{"generation": 2, "mean": 6.0}\n', encoding="utf-8")
    assert send(folder)[0] == 1
    assert recorder.logged[-1] == {"evolve-game/generation": 2, "evolve-game/mean": 6.0}
    assert len({options["id"] for options in recorder.init_options}) == 1


def test_wandb_gets_the_current_names(workspace, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    folder = workspace / "run"
    (folder / "config.yaml").write_text("{env: CarRacing, env_options: {indicators: true}, dream: {dreams: 3}}")
    (folder / "metrics.jsonl").write_text('{"generation": 1, "check": 5.0, "elite": 5.5}\n')
    send(folder)
    assert recorder.init_options[0]["config"] == {
        "env": "CarRacing", "env_options": {"show_hud": True}, "dream": {"num_rollouts": 3}
    }  # fmt: skip
    assert recorder.logged == [{"generation": 1, "eval": 5.0, "eval_candidate": 5.5}]


def test_a_folder_without_metrics_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Recorder())
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        send(tmp_path)


@pytest.mark.slow
def test_wandb_accepts_an_offline_run(workspace):
    pytest.importorskip("wandb")
    assert main(["wandb", str(workspace / "run"), "--mode", "offline"]) == 0
    assert list((workspace / "run" / "wandb").glob("offline-run-*/*.wandb"))
