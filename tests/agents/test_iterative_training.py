"""Iterative training: each iteration plays, trains and dreams; an interruption between two steps changes nothing."""

import json
import re
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from tests.agents.test_pipeline import SMALL
from tests.command_line import refused
from worldmodel.agents import Agent
from worldmodel.agents.analysis import report
from worldmodel.agents.analysis.diagnostics import cards, diagnostics
from worldmodel.agents.analysis.report_card import ReportCard
from worldmodel.agents.cli.main import main
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.schema import IterateConfig, RunConfig
from worldmodel.agents.config.sections import PER_ITERATION, read_sections
from worldmodel.agents.pipeline import iterative_training, stages
from worldmodel.agents.pipeline.iteration_models import recent_episode_weights
from worldmodel.agents.runs.horizon_returns import contributions, horizon_returns
from worldmodel.agents.runs.iteration import Iteration, IterationContext, best_iteration
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.runs.start_states import ComparableStartStates, RecentStartStates, num_comparable_steps
from worldmodel.io.files import fingerprint, from_json, read_json, write_json
from worldmodel.rollouts.policy.policies import policy_name
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode
from worldmodel.rollouts.store.stall_termination import is_complete

ITERATED = ["run", "CartPole-v1", *SMALL, "--game.generations", "0", "--iterate.episodes", "2"]


def run_iterations(out, iterations, *more):
    assert main([*ITERATED, *more, "--iterations", str(iterations), "--out", str(out)]) == 0


def rows(out):
    return read_json(out / "iterations" / "summary.json")["rows"]


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def first(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("iterations") / "run"
    run_iterations(out, 1)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("iterations") / "run"
    run_iterations(out, 2)
    return out


@pytest.mark.slow
def test_all_candidates_play_and_the_best_is_the_controller_of_the_iteration(tmp_path, first):
    several = ["--iterate.candidates", "3"]
    run_iterations(tmp_path / "run", 1, *several)
    run, folder = Run(tmp_path / "run"), tmp_path / "run" / "iterations" / "01"
    store, [row] = run.store(), rows(tmp_path / "run")
    assert len(store) == 8 + 3 * 2 + 2
    means = [np.mean(store.returns[8 + 2 * number :][:2]) for number in range(3)]
    best = folder / f"candidate-{int(np.argmax(means)) + 1}"
    assert row["episode_mean"] == pytest.approx(max(means))
    own = (folder / "evolve-dream" / "controller.safetensors").read_bytes()
    assert own == (best / "evolve-dream" / "controller.safetensors").read_bytes()
    found = {path.read_bytes() for path in folder.glob("candidate-*/evolve-dream/controller.safetensors")}
    assert len(found) == 3
    assert row["dream_steps"] > 2 * rows(first)[0]["dream_steps"]

    # stopped before the result was written: the same episodes and the same controller
    (folder / "iteration.json").unlink()
    run_iterations(tmp_path / "run", 1, *several)
    assert rows(tmp_path / "run") == [row] and len(Run(tmp_path / "run").store()) == len(store)

    # an episode of a candidate is lost before the result was written: no candidate is compared by another's episodes
    (folder / "iteration.json").unlink()
    shard = next(shard for shard in store.shards if shard.first + len(shard.lengths) > 9)
    shard.path.write_bytes(b"")
    assert main([*ITERATED, *several, "--iterations", "1", "--out", str(tmp_path / "run")]) == 2
    assert not (folder / "iteration.json").exists()


@pytest.mark.slow
def test_each_iteration_adds_its_episodes_and_a_row_of_results(finished):
    run = Run(finished)
    store, results = run.store(), rows(finished)
    assert len(store) == 8 + 2 * 4
    assert [one["number"] for one in results] == [1, 2]
    assert [part["first"] for part in store.metadata["policy_changes"]] == [8, 10, 12, 14]
    for number, one in enumerate(results):
        played = store.returns[8 + 4 * number :][:2]
        assert one["episode_mean"] == pytest.approx(np.mean(played))
        assert one["n"] == 2
        assert one["gap"] == pytest.approx(one["dream"] - one["real"])
    assert results[-1]["real_steps"] == store.steps
    best = max(results, key=lambda one: one["episode_mean"])["number"]
    iteration_dir = finished / "iterations" / f"{best:02d}"
    for name in ("world/memory.safetensors", "evolve-dream/controller.safetensors"):
        assert (iteration_dir / name).read_bytes() == (finished / name).read_bytes()
    first, second = ((finished / "iterations" / n / "world" / "memory.safetensors").read_bytes() for n in ("01", "02"))
    assert first != second


@pytest.mark.slow
def test_the_controller_plays_without_noise_before_it_explores(finished):
    policies = [part["policy"] for part in Run(finished).store().metadata["policy_changes"]]
    for index, name in ((0, "01"), (2, "02")):
        iteration = Run(finished / "iterations" / name)
        assert policies[index] == policy_name(Agent(iteration.world(), iteration.controller("dream")))


@pytest.mark.slow
def test_each_iteration_has_a_report_card_with_its_own_controller(finished, capsys):
    run, first = Run(finished), Run(finished / "iterations" / "01")
    found = cards(run)
    assert list(found) == ["iteration 1", "iteration 2"]
    assert (
        from_json(
            ReportCard,
            read_json(first.folder / "diagnostics.json")["card"][fingerprint(first.world().memory)],
            first.folder,
        )
        == found["iteration 1"]
    )
    own = next(fit for fit in found["iteration 1"].rewards if fit.steps == "controller")
    assert own.num_steps == sum(run.store().lengths[8:10])  # without the episodes with exploration noise
    best = read_json(finished / "iterations" / "summary.json")["best"]
    assert diagnostics(run)["card"] == found[f"iteration {best}"]
    assert main(["inspect", str(finished), "--world"]) == 0
    assert "iteration 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "horizon", "expected"),
    [(6, 4, [4, 4, 4]), (None, 4, [4, 4, 4, 3, 2, 1]), (6, 10, [6]), (6, 2, [2, 2, 2, 2, 2]), (8, 4, [4, 4, 4, 3, 2])],
)
def test_horizon_returns_have_the_length_of_a_dream(limit, horizon, expected):
    assert horizon_returns(np.ones(6), num_comparable_steps(6, limit, horizon), horizon) == expected


def test_real_returns_are_those_of_a_true_dream_whatever_ends_an_episode():
    """With a constant hazard, the expected return from every state is the same."""
    rng, hazard, limit, horizon = np.random.default_rng(0), 0.02, 100, 30
    lengths = rng.geometric(hazard, size=2000)
    counts = [num_comparable_steps(min(steps, limit), limit, horizon) for steps in lengths]
    rewards = [np.ones(min(steps, limit)) for steps in lengths]
    found = contributions([horizon_returns(one, n, horizon) for one, n in zip(rewards, counts, strict=True)])
    error = found.std(ddof=1) / len(found) ** 0.5
    assert abs(found.mean() - (1 - (1 - hazard) ** horizon) / hazard) < 4 * error < 1


def test_each_search_of_an_iteration_has_its_own_seed(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(iterative_training, "_start_states", lambda context: None)
    monkeypatch.setattr(stages, "evolve_dream", lambda run, settings, seed, *rest, **options: seeds.append(seed))
    for number in (1, 2, 3):
        context = IterationContext(Run(tmp_path), RunConfig("CartPole-v1", seed=5), number)
        for candidate in range(2):
            iterative_training._evolve(context, None, None, candidate)
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    ("init_from", "candidate", "expected"),
    [
        ("zeros", 0, None),
        ("zeros", 1, None),
        ("last", 0, 3),
        ("last", 1, 2),
        ("last", 2, 2),
        ("best", 0, 2),
        ("best", 1, 2),
    ],
)
def test_the_first_candidate_starts_at_the_last_controller_and_others_at_the_best(
    tmp_path, init_from, candidate, expected
):
    run = Run(tmp_path)
    for number, mean in ((1, 5.0), (2, 9.0), (3, 7.0)):
        one = Iteration(number, 1.0, 1.0, 0.0, 0.0, mean, 1.0, 4, 10, 20)
        write_json(tmp_path / "iterations" / f"{number:02d}" / "iteration.json", asdict(one))
    settings = RunConfig("CartPole-v1", iterate=IterateConfig(init_from=init_from))
    found = IterationContext(run, settings, 4).init_from(candidate)
    assert (found and int(found.folder.name)) == expected
    assert IterationContext(run, settings, 1).init_from(candidate) is None


class EncodedStore:
    """Episode n has n + 4 steps; its third step has the last positive reward."""

    def episode(self, index):
        steps = index + 4
        column = np.full((steps + 1, 2), index, np.float16)
        reward = np.array([-0.1, 1, 2, -3] + [-0.1] * index, np.float32)
        return EncodedEpisode(column, column, np.zeros((steps, 1), np.float32), reward, np.zeros(steps, np.float32))


class PlayedStore(EncodedStore):
    """Episode 2 is truncated, the others terminate; the reward of step t is t."""

    @property
    def store(self):
        return self

    def episode_metadata(self, index):
        return SimpleNamespace(terminated=index != 2, rewards=np.arange(index + 4.0))


class IdleStore(PlayedStore):
    """Five steps, the last three without a positive reward."""

    def episode(self, index):
        return super().episode(1)

    def episode_metadata(self, index):
        return SimpleNamespace(terminated=False, rewards=np.array([1.0, 2.0, -0.1, 0.0, -0.1]))


def test_the_model_exploitation_gap_compares_the_same_start_states():
    """A perfect memory dreams the returns of `horizon_returns` from these start states."""
    start_states, horizon = ComparableStartStates(PlayedStore(), range(1, 4), 4), 4
    assert start_states.counts == [3, 3, 3]  # the time limit is six steps
    for index, episode in enumerate(start_states.episode(index) for index in range(0, 9, 3)):
        meta = PlayedStore().episode_metadata(index + 1)
        perfect_returns = [meta.rewards[at : at + horizon].sum() for at in range(len(episode.action))]
        assert perfect_returns == horizon_returns(meta.rewards, start_states.counts[index], horizon)
        assert len(episode.mean) == len(episode.action) + 1


def test_start_states_of_a_comparison_are_drawn_uniformly():
    start_states = ComparableStartStates(PlayedStore(), range(3, 6), 4)
    assert start_states.counts == [len(start_states.episode(at).action) for at in (0, 7, 15)] == [7, 8, 9]
    assert len(start_states) == 24


def test_idle_truncation_completes_an_episode():
    """Otherwise the steps before a crash count for the dream and not for the game."""
    rewards = np.array([1.0, 2.0, -0.1, 0.0, -0.1])
    for terminated, max_idle_steps, expected in (
        (False, 3, True),
        (False, 4, False),
        (False, None, False),
        (True, None, True),
    ):
        assert is_complete(SimpleNamespace(terminated=terminated, rewards=rewards), max_idle_steps) is expected
    assert not is_complete(SimpleNamespace(terminated=False, rewards=rewards[2:]), 4)
    clip = ComparableStartStates(IdleStore(), range(1), 4, max_idle_steps=3).episode(0)
    assert len(clip.action) == 5
    assert len(ComparableStartStates(IdleStore(), range(1), 4).episode(0).action) == 2


def test_recent_start_states_end_at_the_last_reward():
    start_states = RecentStartStates(EncodedStore(), count=10, num_recent=3)
    assert len(start_states) == 4  # a quarter are initial states of episodes
    for index in range(4):
        episode = start_states.episode(index)
        steps = 3 if index < 3 else 1
        assert episode.mean[0, 0] == 7 + index % 3
        assert [len(part) for part in episode] == [steps + 1, steps + 1, steps, steps, steps]


@pytest.mark.slow
def test_the_report_counts_real_steps_and_dream_steps(finished):
    evaluation = Run(finished).reports()["dream"]
    assert evaluation.real_steps == Run(finished).store().steps
    lines = [path.read_text().splitlines() for path in finished.glob("iterations/*/evolve-dream/metrics.jsonl")]
    assert evaluation.dream_steps == sum(json.loads(line)["steps"] for part in lines for line in part)


@pytest.mark.slow
def test_more_iterations_continue_a_run_and_a_finished_run_is_unchanged(first, finished, tmp_path):
    shutil.copytree(first, tmp_path / "run")
    run_iterations(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    before = (finished / "world" / "memory.safetensors").read_bytes()
    assert before == (tmp_path / "run" / "world" / "memory.safetensors").read_bytes()
    run_iterations(finished, 2)
    assert (finished / "world" / "memory.safetensors").read_bytes() == before


OTHER_SETTINGS = [
    "--iterate.episodes",
    "3",
    "--dream.generations",
    "1",
    "--dream.horizon",
    "7",
    "--iterate.ensemble_size",
    "2",
]
OTHER_SETTINGS += ["--iterate.memory_updates", "2"]


@pytest.mark.slow
def test_the_next_iteration_may_have_other_settings(finished, tmp_path, monkeypatch, capsys):
    run, shown = shutil.copytree(finished, tmp_path / "run"), []
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_report", lambda *given: shown.append(report._settings_of_iterations(*given[:2])))
        run_iterations(run, 4, *OTHER_SETTINGS)
    assert rows(run)[:2] == rows(finished)
    assert [one["n"] for one in rows(run)] == [2, 2, 3, 3]
    iteration_dirs = [run / "iterations" / name for name in ("01", "02", "03", "04")]
    kept = [read_json(iteration_dir / "settings.json") for iteration_dir in iteration_dirs]
    assert [(one["iterate"]["episodes"], one["dream"]["generations"]) for one in kept] == [(2, 3)] * 2 + [(3, 1)] * 2
    assert kept[3]["iterate"] == read_yaml(run / "config.yaml")["iterate"]
    assert len((iteration_dirs[2] / "evolve-dream" / "metrics.jsonl").read_text().splitlines()) == 1
    trained = [
        read_json(iteration_dir / "world-1" / "memory" / "settings.json") for iteration_dir in iteration_dirs[2:]
    ]
    assert "from" not in trained[0]  # the previous iteration had no ensemble
    assert trained[1]["from"] == fingerprint(Run(iteration_dirs[2] / "world-1").world().memory)
    assert trained[1]["num_updates"] == 2
    assert "iterate.memory_updates None, iterate.ensemble_size 1, dream.generations 3" in shown[-1]
    before = (run / "config.yaml").read_bytes()
    message = refused(
        capsys, *ITERATED, *OTHER_SETTINGS, "--iterations", "4", "--out", str(run), "--dream.generations", "9"
    )
    assert "dream.generations" in message
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.slow
def test_an_ensemble_is_the_same_with_any_number_of_workers(first, tmp_path):
    """Workers train memories at the same time; a memory that is already there is kept."""
    weights = []
    for workers in ("1", "2"):
        run = shutil.copytree(first, tmp_path / workers)
        run_iterations(run, 2, *OTHER_SETTINGS, "--workers", workers)
        paths = sorted((run / "iterations" / "02").glob("**/world/memory.safetensors"))
        weights.append([path.read_bytes() for path in paths])
    assert weights[0] == weights[1]
    assert len(set(weights[0])) == 3


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stopped_iteration_resumes_with_its_settings(first, finished, tmp_path, monkeypatch, older):
    """An iteration of an older version, which saved no settings, resumes too."""

    class Stop(Exception):
        pass

    def stopping(*args):
        raise Stop

    run = shutil.copytree(first, tmp_path / "run")
    monkeypatch.setattr(iterative_training, "_evolve", stopping)
    with pytest.raises(Stop):
        run_iterations(run, 2)
    monkeypatch.undo()
    if older:
        for path in run.glob("iterations/*/settings.json"):
            path.unlink()
    run_iterations(run, 3, *OTHER_SETTINGS)
    assert rows(run)[:2] == rows(finished)
    assert (run / "iterations" / "01" / "settings.json").exists() != older  # its settings are unknown
    assert rows(run)[2]["n"] == 3


@pytest.mark.slow
def test_a_refused_command_leaves_the_settings_of_a_finished_run_unchanged(finished, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*ITERATED, "--iterations", "0", "--out", str(run)]) == 0
    before = (run / "config.yaml").read_bytes()
    assert "evolve-dream" in refused(capsys, *ITERATED, *OTHER_SETTINGS, "--iterations", "2", "--out", str(run))
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"iterate": {}, "dream": {"horizon": 7}', ""),
        ('{"dream": {}}', "iterate"),
        ('{"iterate": {}, "dream": null}', "dream"),
        ('{"iterate": {}, "dream": "/other/file.yaml"}', "dream"),
        ('{"iterate": {}, "dream": {"horizon": "far"}}', "dream.horizon"),
        ('{"iterate": {}, "dream": {"horizon": 0}}', "dream.horizon"),
        ('{"iterate": {"init_from": "lost"}, "dream": {}}', "iterate.init_from"),
        ('{"iterate": {"strange": 1}, "dream": {}}', "strange"),
    ],
)
def test_invalid_settings_of_an_iteration_are_named(tmp_path, text, named):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_sections(PER_ITERATION, path)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_invalid_settings_of_an_unfinished_iteration_give_one_line(finished, tmp_path, capsys):
    run, path = tmp_path / "run", tmp_path / "run" / "iterations" / "02" / "settings.json"
    shutil.copytree(finished, run)
    (run / "iterations" / "02" / "iteration.json").unlink()
    intact = path.read_text()
    for text in (
        intact[: len(intact) // 2],
        intact.replace('"ensemble_size": 1', '"ensemble_size": 99'),
    ):
        path.write_text(text)
        assert str(path) in refused(capsys, *ITERATED, "--iterations", "2", "--out", str(run))


@pytest.mark.slow
def test_another_search_does_not_replace_the_best_controller(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "evolve-dream" / "controller.safetensors"
    kept = path.read_bytes()
    words = ["evolve", str(tmp_path / "run"), "--where", "dream", "--dream.generations", "1", "--dream.population", "4"]
    words += ["--dream.num_rollouts", "2", "--dream.horizon", "3"]
    assert str(path.parent) in refused(capsys, *words)
    assert path.read_bytes() == kept
    shutil.rmtree(path.parent)
    assert main(words) == 0
    kept = path.read_bytes()
    assert "evolve-dream" in refused(capsys, *ITERATED, "--iterations", "2", "--out", str(tmp_path / "run"))
    assert path.read_bytes() == kept


@pytest.mark.slow
def test_zero_iterations_are_refused_for_a_run_with_iterations(finished, capsys):
    before = (finished / "evolve-dream" / "controller.safetensors").read_bytes()
    assert "iterations" in refused(capsys, *ITERATED, "--iterations", "0", "--out", str(finished))
    assert (finished / "evolve-dream" / "controller.safetensors").read_bytes() == before


@pytest.mark.slow
def test_metrics_have_one_line_for_each_iteration(finished):
    path = finished / "iterations" / "metrics.jsonl"
    path.write_text(path.read_text() * 2)  # the state after a kill between the line and the file of the iteration
    (finished / "iterations" / "02" / "iteration.json").unlink()
    run_iterations(finished, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows(finished)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["ensemble_of", "_evolve", "_play", "_write_result"])
def test_interrupted_iterations_equal_uninterrupted_ones(finished, tmp_path, monkeypatch, step):
    class Stop(Exception):
        pass

    original, calls = getattr(iterative_training, step), []

    def stopping(*args):
        calls.append(step)
        if len(calls) == 2:
            raise Stop
        return original(*args)

    monkeypatch.setattr(iterative_training, step, stopping)
    with pytest.raises(Stop):
        run_iterations(tmp_path / "run", 2)
    monkeypatch.undo()
    run_iterations(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    name = "world/memory.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_recent_episodes_have_the_given_share_of_the_draws():
    lengths = [10, 30, 5, 15]
    drawn = recent_episode_weights(lengths, 2, 0.75) * lengths
    np.testing.assert_allclose(drawn / drawn.sum(), [0.25 / 4, 0.25 * 3 / 4, 0.75 / 4, 0.75 * 3 / 4])
    assert [recent_episode_weights(lengths, *how) for how in ((None,), (4,), (9,))] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("episode_mean", None), ("number", 9)])
def test_invalid_results_of_an_iteration_are_refused(finished, tmp_path, capsys, name, value):
    out = shutil.copytree(finished, tmp_path / "run")
    result_path = out / "iterations" / "01" / "iteration.json"
    write_json(result_path, read_json(result_path) | {name: value})
    message = refused(capsys, *ITERATED, "--iterations", "2", "--out", str(out))
    assert str(result_path) in message and name in message


def test_the_best_iteration_is_the_first_with_the_highest_return():
    iterations = [Iteration(number, 9.0 - number, 1.0, 1.0, 0.0, mean, 1.0, 2, 10 * number, 5) for number, mean in
            enumerate([3.0, 7.0, 7.0, 5.0], start=1)]  # fmt: skip
    assert best_iteration(iterations).number == 2
