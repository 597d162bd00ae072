"""The pipeline on the command line: a run of CartPole, kills in every stage, bad input."""

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests import toys
from tests.command_line import refused
from worldmodel import VAE, WorldModel, rollouts
from worldmodel.agents import Agent, LinearController, imitate, progress
from worldmodel.agents.analysis.diagnostics import diagnostics
from worldmodel.agents.analysis.inspect import describe
from worldmodel.agents.cli import commands
from worldmodel.agents.cli.commands.common import PRESETS, env_and_options
from worldmodel.agents.cli.main import build_parser, main
from worldmodel.agents.config.schema import (
    CollectConfig,
    DreamConfig,
    GameConfig,
    MemoryConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)
from worldmodel.agents.evaluation import Report
from worldmodel.agents.pipeline import pipeline, stages
from worldmodel.agents.pipeline.controller_evaluation import evaluate_controllers
from worldmodel.agents.pretrained import HOME
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_tensors, write_json, write_tensors
from worldmodel.registry import build_memory
from worldmodel.rollouts.policy.controllers import Controller

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    *(
        "--preset",
        "quick",
        "--workers",
        "1",
        "--collect.episodes",
        "8",
        "--vae.num_updates",
        "6",
        "--vae.batch_size",
        "4",
    ),
    *(
        "--vae.latent_dim",
        "4",
        "--memory.num_updates",
        "6",
        "--memory.batch_size",
        "4",
        "--memory.seq_len",
        "8",
        "--memory.hidden_size",
        "8",
    ),
    *("--iterations", "0", "--iterate.candidates", "1", "--iterate.action_noise", "0.2", "--iterate.param_noise", "0"),
    *("--iterate.init_from", "zeros", "--iterate.memory_updates", "null", "--iterate.recent_episodes", "null"),
    *(
        "--memory.num_components",
        "2",
        "--dream.generations",
        "3",
        "--dream.population",
        "4",
        "--dream.num_rollouts",
        "2",
    ),
    *("--dream.horizon", "10", "--game.generations", "3", "--game.population", "4", "--game.episodes", "1"),
    *("--game.max_steps", "12", "--game.eval_every", "2", "--game.eval_episodes", "2"),
    *("--collect.max_steps", "12", "--eval.episodes", "3", "--eval.max_steps", "12"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_words(out: Path, *more: str) -> list[str]:
    return ["run", "CartPole-v1", *SMALL, "--out", str(out), *more]


def results(out: Path) -> dict:
    """Results that must not depend on interruptions."""
    run = Run(out)
    values = {name: (report.returns, report.seeds) for name, report in run.reports().items()}
    for path in ("vae/weights.safetensors", "memory/weights.safetensors", "world/memory.safetensors"):
        values[path] = (out / path).read_bytes()
    for where in ("dream", "game"):
        values[where] = (out / f"evolve-{where}" / "controller.safetensors").read_bytes()
        rows = (out / f"evolve-{where}" / "metrics.jsonl").read_text().splitlines()
        values[f"{where} rows"] = [{**json.loads(row), "seconds": 0} for row in rows]
    values["shards"] = {p.name: p.stat().st_size for p in (out / "rollouts" / "shards").glob("*.h5")}
    return values


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run without a report."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.agents.analysis.report.write_report", lambda *given: None)  # its plots take longer
        assert main(run_words(out)) == 0
    return out


@pytest.mark.slow
def test_the_pipeline_writes_a_report_and_an_agent(capsys, tmp_path):
    finished = tmp_path / "run"
    assert main(run_words(finished)) == 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "<video" in page and "Report card" in page
    assert all(f"{report.mean:.1f}" in page for report in Run(finished).reports().values())
    assert set(Run(finished).reports()) == {"random", "dream", "game"}
    assert (finished / "media" / "dream-beside-reality.mp4").stat().st_size > 1000
    assert json.loads((finished / "agent" / "report.json").read_text())["n"] == 3
    command = Run(finished).reports()["game"].command
    assert (
        command
        == f"worldmodel evaluate {finished} --where game --eval.episodes 3 --eval.seed 10000 --eval.max_steps 12"
    )
    assert (finished / "config.yaml").exists()
    assert main(["inspect", str(finished), "--picture", str(tmp_path / "sheet.png")]) == 0
    shown, returns = capsys.readouterr().out, Run(finished).store().returns
    assert f"{np.mean(returns):.1f}" in shown and f"{min(returns):.1f}" in shown
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    first = Run(finished).store().episode(0).frames
    assert np.array_equal(sheet[:64, :64], first[0])
    assert np.array_equal(sheet[:64, -64:], first[-1])


def test_inspect_prints_the_report_card_of_the_world_model(finished, capsys, monkeypatch):
    measured = diagnostics(Run(finished))
    assert measured["card"].rewards[0].num_steps > 0
    assert {one.behavior for one in measured["dream"].promises} == {"controller"}
    monkeypatch.setattr(Run, "store", None)  # the card is cached
    assert main(["inspect", str(finished), "--world"]) == 0
    shown = capsys.readouterr().out
    assert "return of controller" in shown
    assert "world model" in shown and f"{measured['card'].latent_steps} of {measured['card'].max_latent_steps}" in shown


def test_the_command_for_a_missing_search_evolves_with_every_preset(finished, tmp_path):
    """A preset may evolve in dreams alone, and a search of no generations is refused."""
    run = Run(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("evolve-*")))
    with pytest.raises(ValueError, match=r"evolve .*--where game .*--game\.generations [1-9]"):
        run.controller("game")


def test_inspect_shows_unfinished_and_outdated_stages(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    state = torch.load(run / "memory" / "resume.pt", weights_only=True)
    state["progress"] |= {"finished": False, "update": 1}
    torch.save(state, run / "memory" / "resume.pt")
    assert "out of date" not in dict(describe(run))
    weights = read_tensors(run / "vae" / "weights.safetensors")
    first = min(weights)
    weights[first] = weights[first] + 1
    write_tensors(run / "vae" / "weights.safetensors", weights)
    rows = dict(describe(run))
    assert re.search(r"\b1\b", rows["train memory"])  # its update
    assert "train vae" not in rows
    assert f"worldmodel train memory {run}" in rows["out of date"]
    (run / "memory" / "resume.pt").write_bytes(b"none")
    assert "resume.pt" in dict(describe(run))["train memory"]


@pytest.mark.slow
def test_a_finished_run_is_unchanged(finished):
    before = results(finished)
    assert main(run_words(finished)) == 0
    assert results(finished) == before


@pytest.mark.slow
def test_the_saved_configuration_repeats_the_run(finished, capsys):
    config = finished / "config.yaml"
    assert config.read_text(encoding="utf-8").startswith("# worldmodel ")
    assert main(["run", "CartPole-v1", "--config", str(config), "--out", str(finished)]) == 0
    assert "--config" in refused(capsys, "run", "Acrobot-v1", "--config", str(config), "--out", str(finished))


@pytest.mark.slow
def test_single_stages_continue_a_run(finished, tmp_path):
    finished = shutil.copytree(finished, tmp_path / "run")
    assert main(["evaluate", str(finished), "--eval.episodes", "2", "--eval.seed", "77"]) == 0
    assert main(["dream", str(finished), "--horizon", "5", "--start_step", "2"]) == 0
    assert list((finished / "media").glob("dream-0-2-*.gif"))


@pytest.mark.slow
def test_progress_of_a_resumed_evolution_starts_at_its_generation(finished, tmp_path, monkeypatch):
    """Work of an earlier session does not count as progress of this one: rate and time left would be wrong."""
    run = Run(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run.folder / "evolve-game")
    shown = []

    @contextlib.contextmanager
    def generations(title):
        evolution = progress.EvolutionProgress()
        evolution.bar = lambda done, total, note: shown.append(done)
        yield evolution

    monkeypatch.setattr(stages, "generations", generations)
    for count, first in ((2, 0), (3, 2)):
        shown.clear()
        game = GameConfig(generations=count, population=4, episodes=1, max_steps=5, eval_episodes=1)
        stages.evolve_game(run, RunConfig("CartPole-v1", workers=1, game=game))
        assert [shown[0], shown[-1]] == [first, count]


class Called(Exception):
    pass


def test_settings_of_trainings_and_dreams_reach_them(tmp_path, monkeypatch):
    run, calls = Run(tmp_path), []
    rollouts.collect(toys.counter, rollouts.uniform, 3, seed=1, out=run.rollouts_folder)

    def record(*arguments, **settings):
        calls.append((*arguments, settings))
        raise Called

    monkeypatch.setattr(stages, "fit", functools.wraps(stages.fit)(lambda *given, **named: record(*given, **named)))
    monkeypatch.setattr(stages, "evolve", functools.wraps(stages.evolve)(record))
    with pytest.raises(Called):
        stages.train_vae(run, RunConfig("", vae=VAEConfig(latent_dim=3, num_updates=7)), 5)
    vae, _, training = calls.pop()
    assert (vae.latent_dim, training["num_updates"], training["seed"]) == (3, 7, 5)
    sizes = {"hidden_size": 6, "num_components": 2, "rank": 1, "num_couplings": 1, "reward_weight": 3.0}
    rates = TrainingConfig((0.25, 0.5))
    with pytest.raises(Called):
        memory_settings = MemoryConfig(flow="conditional-spline", **sizes, seq_len=4, pad_episode_ends=True)
        stages.train_memory(run, RunConfig("", memory=memory_settings, training=rates), 5, vae=vae)
    memory, sequences, training = calls.pop()
    density = sizes | {"conditional": True, "spline": True, "density": "FRMDN"}
    assert {name: memory.config[name] for name in density} == density
    assert (sequences.seq_len, sequences.pad_episode_ends, training["learning_rate"]) == (4, True, 0.5)
    dreams = {"horizon": 7, "num_rollouts": 3, "temperature": 0.5, "termination_hazard_ratio": 2.0}
    world = WorldModel(vae, memory)
    with pytest.raises(Called):
        settings = RunConfig("", dream=DreamConfig(**dreams))
        stages.evolve_dream(run, settings, 5, world=world, start_states=torch.zeros(2, 3))
    _, fitness, search = calls.pop()
    assert (fitness.settings, search["seed"]) == (dreams | {"use_expected_continuation": True}, 5)


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        (
            MemoryConfig(),
            {"density": "FRMDN", "num_couplings": 2, "conditional": False, "spline": False, "full": False},
        ),
        (MemoryConfig(flow="spline"), {"density": "FRMDN", "conditional": False, "spline": True}),
        (MemoryConfig(flow="conditional"), {"density": "FRMDN", "conditional": True, "spline": False}),
        (MemoryConfig(flow="none", rank="full"), {"density": "RMDN", "full": True, "rank": 0}),
        (MemoryConfig(flow="none", rank=3, residual=True), {"density": "RMDN", "rank": 3, "residual": True}),
    ],
)
def test_settings_of_the_memory_describe_its_density(settings, config):
    memory = build_memory(settings.density | {"input_size": 5, "output_size": 3})
    assert {name: memory.config.get(name) for name in config} == config


@pytest.mark.parametrize(("updates", "patience"), [(600, 20), (10_000, 20), (100_000, 200)])
def test_a_long_training_stops_later(updates, patience):
    settings = RunConfig("", vae=VAEConfig(num_updates=updates), training=TrainingConfig((0.25, 0.5)))
    expected = {"num_updates": updates, "batch_size": 64, "learning_rate": 0.25, "patience": patience}
    assert stages._training(settings, settings.vae) == expected


@pytest.mark.parametrize(
    ("workers", "executor"),
    [(3, (3, "loky")), ("3", (3, "loky")), ("64@ray", (64, "ray")), ("8@ray://host:10001", (8, "ray://host:10001"))],
)
def test_workers_name_their_cluster(workers, executor):
    assert RunConfig("", workers=workers).executor == dict(zip(("workers", "backend"), executor, strict=True))


def test_diagnostics_use_the_split_of_the_training(tmp_path, monkeypatch):
    run, vae, seeds = Run(tmp_path), VAE(3), []
    rollouts.collect(toys.counter, rollouts.uniform, 3, seed=1, out=run.rollouts_folder)

    def measure(*arguments):
        seeds.append(arguments[-1])
        raise Called

    monkeypatch.setattr(stages, "fit", lambda *arguments, **settings: None)
    monkeypatch.setattr(stages, "measure_vae", measure)
    monkeypatch.setattr(stages, "measure_memory", measure)
    settings = RunConfig("", seed=9, vae=VAEConfig(latent_dim=3), memory=MemoryConfig(hidden_size=6))
    for seed in (None, 5):  # the split of a continued training is that of the run
        with pytest.raises(Called):
            stages.train_vae(run, settings, seed)
        with pytest.raises(Called):
            stages.train_memory(run, settings, seed, vae=vae)
    assert seeds == [9, 9, 9, 9]


def test_settings_of_the_game_reach_the_fitness(finished, tmp_path, monkeypatch):
    passed = {}

    @functools.wraps(stages.evolve)  # settings are matched with its arguments
    def evolve(controller, fitness, eval_fitness, **settings):
        passed.update(settings, f=fitness, c=eval_fitness)

    monkeypatch.setattr(stages, "evolve", evolve)
    expected = {"episodes": 2, "max_idle_steps": 5, "max_steps": 9}
    resets = []

    def state_resets(fitness, *settings):  # the environment cannot restore states
        resets.append(settings)
        return fitness

    monkeypatch.setattr(rollouts, "StateResets", state_resets)
    more = {"hard_episode_candidates": 7, "state_resets": (6, 11)}
    game = GameConfig(**expected, **more, eval_episodes=4, num_eval_candidates=1, mean_window=6)
    options = {"action_repeat": 2}
    stages.evolve_game(Run(finished), RunConfig("CartPole-v1", env_options=options, workers=1, game=game))
    fitness, evaluated = passed["f"].fitness, passed["c"]
    assert {name: getattr(fitness, name) for name in expected} == expected
    assert (passed["f"].num_candidates, resets) == (7, [(6, 11)])
    assert (evaluated.episodes, evaluated.max_idle_steps, evaluated.max_steps) == (4, None, 9)
    assert (passed["num_eval_candidates"], passed["mean_window"], fitness.env_options) == (1, 6, {"action_repeat": 2})


@pytest.mark.slow
def test_a_search_starts_from_an_agent_of_another_world_model(finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("evolve-*", "memory", "world", "tests"))
    monkeypatch.chdir(tmp_path)
    train = ["train", "memory", str(out), "--memory.num_updates", "8", "--memory.hidden_size", "6", "--seed", "9"]
    assert main(train) == 0
    other, before = tmp_path / "agent", Run(finished)
    Agent(before.world(), before.controller("game")).save(other)
    search = ["evolve", str(out), "--where", "game", "--game.init_from", str(other), "--workers", "1"]
    search += ["--game.population", "4", "--game.episodes", "1", "--game.eval_episodes", "1", "--game.max_steps", "5"]
    assert main([*search, "--game.generations", "1"]) == 0
    [kept] = (out / "evolve-game").glob("agent-*.safetensors")
    copied = kept.read_bytes()
    assert main([*search, "--game.generations", "2"]) == 0  # continues from the same copy
    assert kept.read_bytes() == copied
    run, agent = Run(out), Agent.load(other)
    expected = LinearController.for_world_model(run.world())
    assert torch.equal(Controller.load(kept).parameters, imitate(agent, run.world(), run.store(), expected).parameters)
    assert len((out / "evolve-game" / "metrics.jsonl").read_text().splitlines()) == 2


STAGES = {
    "collect": "rollouts/shards/*.h5",
    "vae": "vae/settings.json",
    "memory": "memory/settings.json",
    "dream": "evolve-dream/state.npz",
    "game": "evolve-game/state.npz",
    "test": "tests/random.json",
}


@pytest.mark.slow
def test_sigkill_in_every_stage_changes_nothing(tmp_path):
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    for stage, pattern in STAGES.items():
        process = subprocess.Popen(
            [sys.executable, "-m", "worldmodel.agents.cli.main", *run_words(out, "--workers", "2")], cwd=ROOT, env=ENVIRONMENT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(out.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.002)
        assert process.poll() is None, f"the run ended before it could be killed in {stage}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in (out, undisturbed):
        program = [sys.executable, "-m", "worldmodel.agents.cli.main", *run_words(folder)]
        subprocess.run(program, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    assert results(out) == results(undisturbed)
    assert not list(out.rglob("*.part")) or all(p.name.startswith(".") for p in out.rglob("*.part"))


@pytest.mark.slow
def test_sigterm_stops_with_one_line_and_the_command_that_resumes(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "worldmodel.agents.cli.main", *run_words(out)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("rollouts/shards/*.h5")):
        time.sleep(0.01)
    while process.poll() is None:  # repeated signals act as one
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "worldmodel run CartPole-v1" in message  # the command that resumes
    assert "Traceback" not in message


REFUSED = {
    # environments, presets and commands, with the closest name
    "run CarRcing": "CarRacing",
    "run car-racng": "car-racing",
    "run CartPole-v1 --preset fast": "quick",
    "inspect nobody --pretrained": "car-racing",
    "sing": "sing",
    # values out of range
    "run CartPole-v1 --workers 0": "workers",
    "run CartPole-v1 --workers many": "workers",
    "evaluate car-racing --pretrained --workers 2@spark": "spark",
    "run CartPole-v1 --dream.temperature 0": "dream.temperature",
    "run CartPole-v1 --training.learning_rate nan": "training.learning_rate",
    "train vae nowhere --training.learning_rate '[1e-3, 0]'": "training.learning_rate",
    "run CartPole-v1 --search.sigma_decay 1.5": "search.sigma_decay",
    "run CartPole-v1 --game.population 2": "game.population",
    "collect CartPole-v1 --workers 0": "workers",
    # contradictory and incomplete settings
    "run CartPole-v1 --game.num_eval_candidates 9 --game.population 8": "game.num_eval_candidates",
    "run CartPole-v1 --iterate.ensemble_size 9 --dream.num_rollouts 8": "iterate.ensemble_size",
    "run CartPole-v1 --iterate.ensemble_size 65 --dream.num_rollouts 80": "iterate.ensemble_size",
    "run CartPole-v1 --memory.stall_delay 0": "collect.max_idle_steps",
    "run CartPole-v1 --memory.stall_delay 31 --collect.max_idle_steps 30": "memory.stall_delay",
    "run CartPole-v1 --iterate.init_from best": "iterate.ensemble_size",
    "run CartPole-v1 --iterate.init_from best --iterate.ensemble_size 2 --iterate.vae_updates 3": "iterate.vae_updates",
    "run CartPole-v1 --iterations 1 --dream.generations 0": "dream.generations",
    "evolve nowhere --where game --game.generations 0": "game.generations",
    "run CartPole-v1 --game.hard_episode_candidates 2": "game.hard_episode_candidates",
    "run CartPole-v1 --game.init_from dream --dream.generations 0": "game.init_from",
    "run CartPole-v1 --game.init_from lost.safetensors": "game.init_from",
    "evolve nowhere --search.sigma 0": "search.sigma",
    "run CartPole-v1 --game.state_resets '[2, 9]'": "save_state",
    "run CarRacing --game.state_resets '[2, 0]'": "game.state_resets",
    # options of environments
    "collect CartPole-v1 --env_options '{1: 2}'": "env_options",
    "run CartPole-v1 --env_options '{x: !!timestamp 2020-01-01}'": "env_options",
    "evaluate car-racing --pretrained --env_options '{x: [.nan]}'": "env_options",
    "collect CartPole-v1 --env_options 3": "env_options",
    "collect CartPole-v1 --env_options '{id: Acrobot-v1}'": "env_options",
    # policies
    "collect CartPole-v1 --collect.policy clever": "clever",
    "collect CartPole-v1 --collect.policy ''": "policy",
    "run CartPole-v1 --collect.policy , --out nowhere": "policy",
    f"collect CarRacing --collect.policy {HOME / 'car-racing'}": "show_hud",
    f"run car-racing --collect.policy smooth,{HOME / 'car-racing-dream'}": "show_hud",
    # missing folders
    **dict.fromkeys(
        ("train vae nowhere", "train memory nowhere", "evolve nowhere", "evaluate nowhere", "dream nowhere"), "nowhere"
    ),
    "inspect nowhere": "nowhere",
    "evaluate car-racing --pretrained --env ../../x": "../../x",
}
"""One command for each kind of refusal, and the argument, value or file that the error names."""


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert REFUSED[words] in refused(capsys, *shlex.split(words))
    assert list(tmp_path.iterdir()) == []  # nothing starts, and a mistyped folder is not created


@pytest.mark.slow
def test_a_changed_controller_is_evaluated_again(finished, tmp_path):
    """A report is kept while its controller, its episodes and its seeds are unchanged."""
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    plain = RunConfig("CartPole-v1", dream=DreamConfig(generations=0))
    settings = replace(plain, eval=replace(plain.eval, episodes=3, max_steps=20))
    first = evaluate_controllers(run, settings)["game"]
    assert evaluate_controllers(run, settings)["game"] == first
    controller = run.controller("game")
    controller.with_parameters(controller.parameters + 1).save(run.folder / "evolve-game" / "controller.safetensors")
    second = evaluate_controllers(run, settings)["game"]
    assert second.agent != first.agent


@pytest.mark.slow
@pytest.mark.parametrize("better", ["dream", "game"])
def test_the_better_controller_is_evaluated_by_default(finished, tmp_path, better):
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    for where in ("dream", "game"):
        Report("CartPole-v1", [20.0 if where == better else 10.0], [1], [1]).save(
            run.folder / "tests" / f"{where}.json"
        )
    assert main(["evaluate", str(run.folder), "--eval.episodes", "1", "--eval.seed", "5", "--eval.max_steps", "3"]) == 0
    assert len([*(run.folder / "tests").glob(f"{better}-*.json")]) == 1


@pytest.mark.slow
def test_the_only_controller_is_evaluated_by_default(finished, tmp_path):
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    shutil.rmtree(run.folder / "tests")
    assert run.evolved == "game"
    shutil.rmtree(run.folder / "evolve-game")
    assert run.evolved == "dream"
    assert main(["evaluate", str(run.folder), "--eval.episodes", "1", "--eval.seed", "5", "--eval.max_steps", "3"]) == 0
    (report,) = (run.folder / "tests").glob("dream-*.json")
    assert Report.load(report).command.startswith(f"worldmodel evaluate {run.folder} --where dream")
    shutil.rmtree(run.folder / "evolve-dream")
    assert run.evolved == "game"


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_presets_set_their_values(preset):
    game, _, name = preset.partition(".")
    words = ["run", {"any": "CartPole-v1"}.get(game, game), "--preset", name]
    parsed = build_parser(words).parse_args(words).run
    written = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    for key, value in written.items():
        if isinstance(value, dict) and not key.endswith("_options"):
            assert {part: parsed[key][part] for part in value} == value
        else:
            assert parsed[key] == value


def test_a_run_folder_of_another_configuration_is_refused(finished, capsys):
    message = refused(capsys, *run_words(finished, "--training.learning_rate", "0.1"))
    assert "training.learning_rate" in message and "0.001" in message and "0.1" in message


@pytest.mark.parametrize("words", ["collect CartPole-v1 --out RUN --seed 9", "evolve RUN --where dream --seed 9"])
def test_a_stage_with_other_settings_is_refused_before_its_progress_bar(finished, capsys, words):
    assert "seed" in refused(capsys, *words.replace("RUN", str(finished)).split())


def test_iterations_are_refused_after_an_evolution_in_the_game(finished, capsys):
    before = results(finished)
    message = refused(capsys, *run_words(finished, "--iterations", "1"))
    assert "iterations" in message
    assert not (finished / "iterations").exists()
    assert results(finished) == before


def test_two_processes_on_one_run_are_refused(finished, capsys):
    with Run(finished).locked():
        assert str(finished) in refused(capsys, *run_words(finished))


def test_temperature_zero_dreams_are_refused(finished, capsys):
    assert "temperature" in refused(capsys, "dream", str(finished), "--temperature", "0")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in {command.split()[0] for command in commands.COMMANDS}:
        assert f"    {name} " in text


def test_doctor_finds_both_games(capsys):
    main(["doctor"])
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "CarRacing" in text
    assert "SuperMarioBros-1-1" in text


@pytest.mark.parametrize(("official", "expected"), [("false", "FastCarRacing"), ("true", "CarRacing")])
def test_collect_uses_the_fast_game_unless_official_is_set(tmp_path, official, expected):
    words = [
        "collect",
        "CarRacing",
        "--out",
        str(tmp_path),
        "--collect.episodes",
        "1",
        "--collect.max_steps",
        "3",
        "--workers",
        "1",
    ]
    assert main([*words, "--official", official]) == 0
    run = Run(tmp_path)
    assert run.store().env == expected
    assert env_and_options(run, None, official=True) == ("CarRacing", {})  # the game of evaluate


def test_incompatible_settings_are_refused_before_encoding(tmp_path, capsys):
    run = Run(tmp_path)
    rollouts.collect(toys.counter, rollouts.uniform, 2, seed=3, out=run.rollouts_folder)
    vae = VAE(latent_dim=3)
    write_tensors(run.folder / "vae" / "weights.safetensors", vae.state_dict())
    write_json(run.folder / "vae" / "settings.json", {"model_config": vae.config})
    assert main(["train", "memory", str(tmp_path), "--memory.hidden_size", "70000"]) == 2
    assert "hidden_size" in capsys.readouterr().err
    assert not (run.rollouts_folder / "latents").exists()


@pytest.mark.slow
def test_without_a_number_of_episodes_there_are_enough_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "AUTO_EPISODES", 2)
    monkeypatch.setattr(stages, "AUTO_STEPS", 150)
    words = ["collect", "CartPole-v1", "--workers", "1", "--out"]
    assert main([*words, str(tmp_path / "few"), "--collect.episodes", "2"]) == 0
    few = Run(tmp_path / "few").store()
    assert len(few) == 2
    for _ in range(2):  # the second call finds all of them
        assert main([*words, str(tmp_path / "more"), "--collect.episodes", "null"]) == 0
        more = Run(tmp_path / "more").store()
        assert more.steps >= 150 > few.steps
        assert more.lengths[:2] == few.lengths


@pytest.mark.parametrize("episodes", [3, 4])
def test_a_run_that_lost_episodes_of_its_iterations_is_refused(tmp_path, episodes):
    run = Run(tmp_path)
    rollouts.collect(toys.counter, rollouts.uniform, 3, seed=3, out=run.rollouts_folder)
    write_json(tmp_path / "iterations" / "01" / "episodes.json", {"episodes": episodes})
    settings = RunConfig("CartPole-v1", collect=CollectConfig(episodes=2))
    with pytest.raises(ValueError, match="episode 3") if episodes > 3 else contextlib.nullcontext():
        pipeline._validate_rollouts(run, settings)


@pytest.mark.slow
def test_the_program_shuts_its_workers_down_and_succeeds(tmp_path):
    words = ["collect", "CartPole-v1", "--collect.episodes", "2", "--collect.max_steps", "3", "--workers", "2"]
    program = [sys.executable, "-m", "worldmodel.agents.cli.main", *words, "--out", str(tmp_path / "run")]
    ended = subprocess.run(program, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("Traceback")) == (0, 0), ended.stderr
    assert len(Run(tmp_path / "run").store()) == 2
