"""Benchmark records: their counts, their files and the commands that reproduce them."""

import json
import shlex
import shutil
import sys

import pytest

from benchmarks import records
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, LinearController, Report
from worldmodel.agents.cli.main import main
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json, write_json

PUBLISHED_VAE = True

ROWS = [
    {"generation": 1, "steps": 100, "seconds": 2.0},
    {"generation": 2, "steps": 50, "eval_steps": 10, "eval": 7.5, "seconds": 1.0},
    {"generation": 3, "steps": 70, "eval_steps": 20, "eval": 9.5, "seconds": 4.0},
]


def write_rows(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an action repeat of 2 and an evolution in the game."""
    run = Run(tmp_path_factory.mktemp("records") / "a run")
    options = {"action_repeat": 2}
    rollouts.collect("CartPole-v1", rollouts.uniform, 3, seed=1, out=run.rollouts_folder, env_options=options)
    with seeded(0):
        world = WorldModel(VAE(latent_dim=3), Memory(FRMDN(3 + 2, 3, hidden_size=5)), discrete=True)
    world.save(run.world_folder)
    write_rows(run.folder / "evolve-game" / "metrics.jsonl")
    LinearController.for_world_model(world).save(run.folder / "evolve-game" / "controller.safetensors")
    write_json(run.folder / "timings.json", {"collect": 10.0, "evolve in the game": 7.0})
    return run


@pytest.fixture
def records_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(records, "HOME", tmp_path / "pretrained")
    monkeypatch.setattr(records, "EPISODES", 2)
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def test_frames_count_repeats_and_shared_rollouts_once(run, tmp_path):
    other = Run(tmp_path / "other")
    other.folder.mkdir()
    other.rollouts_folder.symlink_to(run.rollouts_folder)
    assert records.frames([run]) == 2 * (run.store().steps + 250)
    assert records.frames([run, other]) == records.frames([run])
    assert records.steps([run, other]) == run.store().steps + 250
    write_rows(other.folder / "evolve-game" / "metrics.jsonl")
    assert records.frames([run, other]) == 2 * (run.store().steps + 500)


def test_checks_list_frames_seconds_and_returns(records_dir):
    write_json(records_dir / "one.about.json", {"frames_before": 1000, "seconds_before": 60, "action_repeat": 2})
    write_rows(records_dir / "one.metrics.jsonl")
    assert records.evaluations("one") == ([1320.0, 1500.0], [63.0, 67.0], [7.5, 9.5])


def test_checks_of_iterations_list_frames_and_returns(records_dir):
    write_json(records_dir / "one.about.json", {"frames_before": 0, "seconds_before": 0, "action_repeat": 4})
    write_json(records_dir / "one.iterations.json", {"rows": [{"real_steps": 50, "episode_mean": 3.0}]})
    assert records.evaluations("one") == ([200], [], [3.0])


def test_training_seeds_have_a_row_of_their_own(run, records_dir, tmp_path):
    """Its mean and its deviation are over runs: those of 10, 20 and 60."""

    def report(mean, steps):
        seeds = [records.SEED, records.SEED + 1]
        return Report("CartPole-v1", [mean - 1, mean + 1], [1, 1], seeds, dream_steps=steps)

    about = {"title": "CartPole", "tests": {"": "pole.json"}, "frames": 1_000_000, "seconds": 60}
    write_json(records_dir / "pole.about.json", about)
    report(10.0, 1_000_000).save(records_dir / "pole.json")
    assert records.seeds_row("pole") == []
    for seed, mean in ((12, 60.0), (2, 20.0)):
        other = Run(tmp_path / f"seed {seed}")
        shutil.copytree(run.folder, other.folder)
        (other.folder / "config.yaml").write_text(f"seed: {seed}\n")
        report(mean, 4_000_000).save(other.folder / "tests" / "dream.json")
        records.keep_seed(other, "pole")
    name, score, frames, dreamed, seconds = records.seeds_row("pole")
    assert name.endswith("1, 2, 12: 10, 20, 60")
    assert score == "30 ± 26 (15.3, 3 runs)"
    assert frames == f"{(1e6 + 2 * records.frames([run])) / 3e6:.1f} million"
    assert (dreamed, seconds) == ("3 million", "17 s")
    assert records.table().splitlines()[3] == f"| {' | '.join(records.seeds_row('pole'))} |"
    assert "training seeds" not in records.table(every_test=False)


def test_a_run_with_other_test_seeds_is_not_kept(run, records_dir, tmp_path):
    other = Run(tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "config.yaml").write_text("seed: 2\n")
    Report("CartPole-v1", [1.0, 2.0], [1, 1], [1, 2]).save(other.folder / "tests" / "dream.json")
    with pytest.raises(ValueError, match=str(records.SEED)):
        records.keep_seed(other, "pole")


@pytest.mark.slow
def test_a_record_has_a_report_for_each_test_and_commands_that_reproduce_them(run, records_dir, monkeypatch):
    args = ["records", "keep", str(run.folder), "pole", "--title", "CartPole", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", [*args, "--test", 'slow={"action_repeat": 3}'])
    monkeypatch.setattr(records, "put", lambda *where: None)
    records.main()
    about = read_json(records_dir / "pole.about.json")
    assert about["tests"] == {"": "pole.json", "slow": "pole-slow.json"}
    assert about["frames"] == records.frames([run])
    assert about["seconds_before"] == 10
    assert "| CartPole, slow |" in records.table()
    for name, repeat in (("pole", 2), ("pole-slow", 3)):
        report = Report.load(records_dir / f"{name}.json")
        assert report.env_options == {"action_repeat": repeat}
        assert report.real_steps == records.steps([run])
        assert main([*shlex.split(report.command)[1:], "--workers", "1"]) == 0
    again = [Report.load(path) for path in (run.folder / "tests").glob("*.json")]
    assert {report.env_options["action_repeat"]: report.returns for report in again} == {
        repeat: Report.load(records_dir / f"{name}.json").returns for name, repeat in (("pole", 2), ("pole-slow", 3))
    }


@pytest.mark.slow
def test_shipped_agents_state_their_cost(run, records_dir):
    records.keep(run, "pole", "game", "CartPole", [], {"": {}}, True, 1)
    folder = records.HOME / "pole"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{records.frames([run]):,}" in card
    report = Report.load(folder / "report.json")
    assert report == Report.load(records_dir / "pole.json")
    assert Agent.load(folder).name == report.agent  # bit-equal to the tested agent


@pytest.mark.slow
def test_an_interrupted_test_keeps_the_shipped_agent(run, records_dir, monkeypatch):
    records.keep(run, "pole", "game", "CartPole", [], {"": {}}, True, 1)
    before = {path.name: path.read_bytes() for path in (records.HOME / "pole").iterdir()}

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "test", stopped)
    with pytest.raises(KeyboardInterrupt):
        records.keep(run, "pole", "game", "CartPole", [], {"": {}}, True, 1)
    assert {path.name: path.read_bytes() for path in (records.HOME / "pole").iterdir()} == before


@pytest.mark.slow
def test_history_includes_an_earlier_evolution(run, records_dir, tmp_path):
    first = Run(tmp_path / "first")
    first.folder.mkdir()
    first.rollouts_folder.symlink_to(run.rollouts_folder)
    write_rows(first.folder / "evolve-game" / "metrics.jsonl")
    write_json(first.folder / "timings.json", {"evolve in the game": 5.0})
    records.keep(run, "pole", "game", "CartPole", [], {"": {}}, False, 1, after=first)
    about, collected_steps = read_json(records_dir / "pole.about.json"), run.store().steps
    assert about["frames"] == 2 * (collected_steps + 500)
    assert [about["frames_before"], about["seconds"], about["seconds_before"]] == [2 * collected_steps, 22, 10]
    assert records.evaluations("pole")[0] == [2 * (collected_steps + steps) for steps in (160, 250, 410, 500)]


def test_a_record_without_a_history_is_refused_before_playing(run, records_dir):
    with pytest.raises(ValueError, match=r"iterations/summary\.json"):
        records.keep(run, "pole", "dream", "CartPole", [], {"": {}}, False, 1)
    assert not list(records_dir.iterdir())


@pytest.mark.slow
def test_a_continued_record_adds_up_costs(run, records_dir, monkeypatch):
    steps = {"game": run.evolution_steps("game"), "dream": 40}
    monkeypatch.setattr(Run, "evolution_steps", lambda self, where: steps[where])
    records.keep(run, "pole", "game", "CartPole", [], {"": {}}, False, 1)
    before, rows = read_json(records_dir / "pole.about.json"), records.rows("pole")
    records.keep(run, "pole", "game", "CartPole", [], {"": {}}, False, 1, on=True)
    about = read_json(records_dir / "pole.about.json")
    assert {name: about[name] for name in records.ADDED} == {name: 2 * before[name] for name in records.ADDED}
    assert about["runs"] == [str(run.folder)] * 2
    assert records.rows("pole") == rows * 2 == ROWS * 2
    report = Report.load(records_dir / "pole.json")
    assert [report.real_steps, report.dream_steps] == [2 * records.steps([run]), 80]
