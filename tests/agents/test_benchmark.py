"""Several seeds in one score: against definitions and simulations, and as a command that continues."""

import json
import shlex

import numpy as np
import pytest

from tests.command_line import exit_code, refused
from worldmodel.agents.analysis.aggregate import aggregate, interval_of_iqm, probability_of_improvement


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    scores = [9.0, 1.0, 3.0, 4.0, 5.0, 100.0, 2.0, 6.0]
    assert aggregate([[score] for score in scores]).iqm == np.mean([3, 4, 5, 6])
    assert aggregate([[score - 1, score + 1] for score in scores]).iqm == np.mean([3, 4, 5, 6])
    assert aggregate([[1.0], [2.0], [3.0], [4.0], [50.0]]).iqm == 3  # of five, one on each side is left out


def test_a_score_is_the_mean_of_its_run_whatever_the_number_of_episodes():
    found = aggregate([[0.0], [10.0, 10.0, 10.0]], random=[5.0])
    assert (found.mean, found.worst, found.runs, found.episodes) == (5, 0, 2, 4)
    assert found.std == pytest.approx(np.std([0, 10], ddof=1))
    assert found.improvement == 0.75


def test_equal_scores_have_an_interval_of_no_width_and_one_run_has_none():
    assert aggregate([[3.0]] * 4)[:2] == (3, (3, 3))
    assert aggregate([[3.0]]).interval is None


def test_the_interval_covers_the_true_value():
    """The percentile bootstrap over ten runs covers somewhat less than it promises, and far more than half."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = interval_of_iqm(rng.normal(size=10))
        hits += low <= 0 <= high
    assert 0.82 * 200 < hits < 0.99 * 200


def test_probability_of_improvement_counts_pairs():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 6, 30), rng.integers(0, 6, 17)
    pairs = [(a > b) + 0.5 * (a == b) for a in one for b in other]
    assert probability_of_improvement(one, other) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("returns", [[], [[]], [[1.0], []], [[1.0], [float("nan")]]])
def test_missing_returns_are_refused(returns):
    with pytest.raises(ValueError, match="returns"):
        aggregate(returns)


SMALL = ["--collect.episodes", "3", "--collect.max_steps", "9", "--memory.num_updates", "2", "--iterations", "0"]
SMALL += ["--dream.generations", "1", "--dream.population", "4", "--game.generations", "2", "--game.population", "4"]
SMALL += ["--game.max_steps", "9", "--game.eval_every", "1", "--eval.episodes", "2", "--eval.max_steps", "9"]


@pytest.mark.slow
def test_seeds_are_run_once_and_more_may_follow(tmp_path, capsys):
    words = ["benchmark", "CartPole-v1", "--preset", "quick", "--env_options.observation", "vector", *SMALL]
    words += ["--out", str(tmp_path), "--workers", "1", "--seed", "3"]
    assert exit_code(*words, "--seeds", "1") == 0
    first = (tmp_path / "seed-3" / "tests" / "game.json").read_bytes()
    assert exit_code(*words, "--seeds", "2") == 0
    assert (tmp_path / "seed-3" / "tests" / "game.json").read_bytes() == first
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["seed"] for row in found["runs"]] == [3, 4]
    for name in ("random", "dream", "game"):
        reports = [json.loads((tmp_path / f"seed-{seed}" / "tests" / f"{name}.json").read_text()) for seed in (3, 4)]
        assert found["scores"][name]["mean"] == pytest.approx(np.mean([one["mean"] for one in reports]))
        assert found["scores"][name]["episodes"] == 4
    reports = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("tests/*.json")}
    assert (
        exit_code(*shlex.split(found["command"])[1:]) == 0
    )  # the command repeats the benchmark, and runs nothing again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("tests/*.json")} == reports
    page = (tmp_path / "benchmark.html").read_text()
    assert page.count("data:image/png") == 2
    capsys.readouterr()


def test_no_seed_is_refused(tmp_path, capsys):
    assert "seeds" in refused(capsys, "benchmark", "CartPole-v1", "--seeds", "0", "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
