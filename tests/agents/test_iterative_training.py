"""Iterated dreams: each iteration plays, learns and dreams again; a stop between any two steps changes nothing."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import agents.iterative_training
from agents import Agent, report
from agents.cli import main
from agents.config.io import read_yaml
from agents.config.sections import read_sections
from agents.horizon_returns import horizon_returns
from agents.iterative_training import PER_ITERATION, Iteration, best_iteration, recent_episode_weights
from agents.run import Run
from agents.start_states import ComparableStartStates, RecentStartStates
from rollouts.encoded_dataset import EncodedEpisode
from rollouts.policies import policy_name
from rollouts.stall_termination import is_complete
from tests.agents.test_pipeline import SMALL
from tests.command_line import refused
from worldmodel.io import fingerprint, read_json, write_json

ITERATED = ["run", "CartPole-v1", *SMALL, "--game.generations", "0", "--iterate.episodes", "2"]


def told(out, iterations, *more):
    assert main([*ITERATED, *more, "--iterations", str(iterations), "--out", str(out)]) == 0


def rows(out):
    return read_json(out / "iterations" / "summary.json")["rows"]


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def first(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("iterations") / "run"
    told(out, 1)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("iterations") / "run"
    told(out, 2)
    return out


def test_each_iteration_adds_its_episodes_and_says_what_it_came_to(finished):
    run = Run(finished)
    store, said = run.store(), rows(finished)
    assert len(store) == 8 + 2 * 4
    assert [one["number"] for one in said] == [1, 2]
    assert [part["first"] for part in store.metadata["policy_changes"]] == [8, 10, 12, 14]
    for number, one in enumerate(said):
        played = store.returns[8 + 4 * number :][:2]
        assert one["episode_mean"] == pytest.approx(np.mean(played))
        assert one["n"] == 2
        assert one["gap"] == pytest.approx(one["dream"] - one["real"])
    assert said[-1]["real_steps"] == store.steps
    best = max(said, key=lambda one: one["episode_mean"])["number"]
    home = finished / "iterations" / f"{best:02d}"
    for name in ("world/memory.safetensors", "evolve-dream/controller.safetensors"):
        assert (home / name).read_bytes() == (finished / name).read_bytes()
    first, second = ((finished / "iterations" / n / "world" / "memory.safetensors").read_bytes() for n in ("01", "02"))
    assert first != second


def test_the_controller_plays_as_it_is_before_it_explores(finished):
    policies = [part["policy"] for part in Run(finished).store().metadata["policy_changes"]]
    for place, name in ((0, "01"), (2, "02")):
        home = Run(finished / "iterations" / name)
        assert policies[place] == policy_name(Agent(home.world(), home.controller("dream")))


@pytest.mark.parametrize(
    ("terminated", "horizon", "expected"),
    [(False, 4, [4, 4, 4]), (True, 4, [4, 4, 4, 3, 2, 1]), (False, 10, [6]), (False, 2, [2, 2, 2, 2, 2])],
)
def test_a_stretch_is_one_that_a_dream_could_have_lived(terminated, horizon, expected):
    assert horizon_returns(np.ones(6), terminated, horizon) == expected


class Encoded:
    """Episode n has n + 4 steps, and its last reward above zero with its third."""

    def episode(self, index):
        steps = index + 4
        column = np.full((steps + 1, 2), index, np.float16)
        reward = np.array([-0.1, 1, 2, -3] + [-0.1] * index, np.float32)
        return EncodedEpisode(column, column, np.zeros((steps, 1), np.float32), reward, np.zeros(steps, np.float32))


class Played(Encoded):
    """Episode 2 was ended by a limit, the others by an end of their own; a step of number t earns t."""

    @property
    def store(self):
        return self

    def episode_metadata(self, index):
        return SimpleNamespace(terminated=index != 2, rewards=np.arange(index + 4.0))


class Cut(Played):
    """Five steps, the last three of which earned nothing."""

    def episode(self, index):
        return super().episode(1)

    def episode_metadata(self, index):
        return SimpleNamespace(terminated=False, rewards=np.array([1.0, 2.0, -0.1, 0.0, -0.1]))


def test_the_gap_compares_what_begins_at_the_same_moments():
    """What a perfect memory dreams from these moments has the mean that `horizon_returns` gives."""
    places, horizon = ComparableStartStates(Played(), range(1, 4), 4), 4
    assert len(places) == 3
    for index, episode in enumerate(places.episode(index) for index in range(3)):
        meta = Played().episode_metadata(index + 1)
        perfect = [meta.rewards[at : at + horizon].sum() for at in range(len(episode.action))]
        assert perfect == horizon_returns(meta.rewards, meta.terminated, horizon)
        assert len(episode.mean) == len(episode.action) + 1


def test_an_episode_that_was_cut_for_want_of_patience_is_over():
    """Else what leads to a crash would count for the dream and not for the game."""
    rewards = np.array([1.0, 2.0, -0.1, 0.0, -0.1])
    for terminated, patience, expected in (
        (False, 3, True),
        (False, 4, False),
        (False, None, False),
        (True, None, True),
    ):
        assert is_complete(SimpleNamespace(terminated=terminated, rewards=rewards), patience) is expected
    assert not is_complete(SimpleNamespace(terminated=False, rewards=rewards[2:]), 4)
    late = ComparableStartStates(Cut(), range(1), 4, max_idle_steps=3).episode(0)
    assert len(late.action) == 5
    assert len(ComparableStartStates(Cut(), range(1), 4).episode(0).action) == 2


def test_dreams_begin_in_the_newest_episodes_up_to_their_last_rewards():
    starts = RecentStartStates(Encoded(), count=10, num_recent=3, initial_state_fraction=0.4)
    assert len(starts) == 5  # two of five begin where an episode begins
    for index in range(5):
        episode = starts.episode(index)
        steps = 3 if index < 3 else 1
        assert episode.mean[0, 0] == 7 + index % 3
        assert [len(part) for part in episode] == [steps + 1, steps + 1, steps, steps, steps]


def test_the_report_counts_what_was_really_lived(finished):
    tested = Run(finished).reports()["dream"]
    assert tested.real_steps == Run(finished).store().steps
    lines = [path.read_text().splitlines() for path in finished.glob("iterations/*/evolve-dream/metrics.jsonl")]
    assert tested.dream_steps == sum(json.loads(line)["steps"] for part in lines for line in part)


def test_more_iterations_go_on_and_a_finished_run_is_told_at_once(first, finished, tmp_path):
    shutil.copytree(first, tmp_path / "run")
    told(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    before = (finished / "world" / "memory.safetensors").read_bytes()
    assert before == (tmp_path / "run" / "world" / "memory.safetensors").read_bytes()
    told(finished, 2)
    assert (finished / "world" / "memory.safetensors").read_bytes() == before


OTHERS = ["--iterate.episodes", "3", "--dream.generations", "1", "--dream.horizon", "7", "--iterate.ensemble_size", "2"]
OTHERS += ["--iterate.memory_updates", "2"]


def test_the_next_iteration_may_have_other_settings_and_each_keeps_its_own(finished, tmp_path, monkeypatch, capsys):
    run, shown = shutil.copytree(finished, tmp_path / "run"), []
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_report", lambda *given: shown.append(report._settings_of_iterations(*given[:2])))
        told(run, 4, *OTHERS)
    assert rows(run)[:2] == rows(finished)
    assert [one["n"] for one in rows(run)] == [2, 2, 3, 3]
    homes = [run / "iterations" / name for name in ("01", "02", "03", "04")]
    kept = [read_json(home / "settings.json") for home in homes]
    assert [(one["iterate"]["episodes"], one["dream"]["generations"]) for one in kept] == [(2, 3)] * 2 + [(3, 1)] * 2
    assert kept[3]["iterate"] == read_yaml(run / "config.yaml")["iterate"]
    assert len((homes[2] / "evolve-dream" / "metrics.jsonl").read_text().splitlines()) == 1
    trained = [read_json(home / "world-1" / "memory" / "settings.json") for home in homes[2:]]
    assert "from" not in trained[0]  # the iteration before had no such world
    assert trained[1]["from"] == fingerprint(Run(homes[2] / "world-1").world().memory)
    assert trained[1]["num_updates"] == 2
    assert "iterate.memory_updates None, iterate.ensemble_size 1, dream.generations 3" in shown[-1]
    before = (run / "config.yaml").read_bytes()
    said = refused(capsys, *ITERATED, *OTHERS, "--iterations", "4", "--out", str(run), "--dream.generations", "9")
    assert "dream.generations" in said
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_iteration_that_was_stopped_goes_on_with_the_settings_it_began_with(
    first, finished, tmp_path, monkeypatch, older
):
    """So does one that an older version began, which kept none."""

    class Stop(Exception):
        pass

    def stopping(*args):
        raise Stop

    run = shutil.copytree(first, tmp_path / "run")
    monkeypatch.setattr(agents.iterative_training, "_evolve", stopping)
    with pytest.raises(Stop):
        told(run, 2)
    monkeypatch.undo()
    if older:
        for path in run.glob("iterations/*/settings.json"):
            path.unlink()
    told(run, 3, *OTHERS)
    assert rows(run)[:2] == rows(finished)
    assert (run / "iterations" / "01" / "settings.json").exists() != older  # nobody knows what it began with
    assert rows(run)[2]["n"] == 3


@pytest.mark.slow
def test_a_refused_command_leaves_the_settings_of_a_finished_run_alone(finished, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*ITERATED, "--iterations", "0", "--out", str(run)]) == 0
    before = (run / "config.yaml").read_bytes()
    assert "evolve-dream" in refused(capsys, *ITERATED, *OTHERS, "--iterations", "2", "--out", str(run))
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
def test_an_iteration_s_spoilt_settings_are_named(tmp_path, text, named):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_sections(PER_ITERATION, path)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_spoilt_settings_of_an_iteration_under_way_end_the_run_in_one_line(finished, tmp_path, capsys):
    run, path = tmp_path / "run", tmp_path / "run" / "iterations" / "02" / "settings.json"
    shutil.copytree(finished, run)
    (run / "iterations" / "02" / "iteration.json").unlink()
    whole = path.read_text()
    for text in (whole[: len(whole) // 2], whole.replace('"disagreement_penalty": 0.0', '"disagreement_penalty": 2.0')):
        path.write_text(text)
        assert str(path) in refused(capsys, *ITERATED, "--iterations", "2", "--out", str(run))


def test_no_other_search_takes_the_place_of_the_best_iteration_s_controller(finished, tmp_path, capsys):
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


def test_iterations_may_not_be_left_out_of_a_run_that_has_them(finished, capsys):
    before = (finished / "evolve-dream" / "controller.safetensors").read_bytes()
    assert "iterations" in refused(capsys, *ITERATED, "--iterations", "0", "--out", str(finished))
    assert (finished / "evolve-dream" / "controller.safetensors").read_bytes() == before


def test_a_line_is_written_once_for_each_iteration(finished):
    path = finished / "iterations" / "metrics.jsonl"
    path.write_text(path.read_text() * 2)  # as a kill between the line and its iteration's file once left it
    (finished / "iterations" / "02" / "iteration.json").unlink()
    told(finished, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows(finished)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_ensemble", "_evolve", "_play", "_write_result"])
def test_a_stop_before_any_step_of_an_iteration_changes_nothing(finished, tmp_path, monkeypatch, step):
    class Stop(Exception):
        pass

    original, calls = getattr(agents.iterative_training, step), []

    def stopping(*args):
        calls.append(step)
        if len(calls) == 2:
            raise Stop
        return original(*args)

    monkeypatch.setattr(agents.iterative_training, step, stopping)
    with pytest.raises(Stop):
        told(tmp_path / "run", 2)
    monkeypatch.undo()
    told(tmp_path / "run", 2)
    assert rows(tmp_path / "run") == rows(finished)
    name = "world/memory.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_share_of_what_is_drawn_is_of_the_newest_episodes():
    lengths = [10, 30, 5, 15]
    drawn = recent_episode_weights(lengths, 2, 0.75) * lengths
    np.testing.assert_allclose(drawn / drawn.sum(), [0.25 / 4, 0.25 * 3 / 4, 0.75 / 4, 0.75 * 3 / 4])
    assert [recent_episode_weights(lengths, *how) for how in ((2, 0.0), (None, 0.5), (4, 0.5), (9, 0.5))] == [None] * 4


@pytest.mark.parametrize(("name", "value"), [("episode_mean", None), ("number", 9)])
def test_what_an_iteration_wrote_down_is_checked(finished, tmp_path, capsys, name, value):
    out = shutil.copytree(finished, tmp_path / "run")
    written = out / "iterations" / "01" / "iteration.json"
    write_json(written, read_json(written) | {name: value})
    said = refused(capsys, *ITERATED, "--iterations", "2", "--out", str(out))
    assert str(written) in said and name in said


def test_the_iteration_that_drove_best_is_kept_and_the_first_of_equals():
    done = [Iteration(number, 9.0 - number, 1.0, 1.0, 0.0, mean, 1.0, 2, 10 * number, 5) for number, mean in
            enumerate([3.0, 7.0, 7.0, 5.0], start=1)]  # fmt: skip
    assert best_iteration(done).number == 2
