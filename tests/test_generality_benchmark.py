"""The table of ten environments has all of their scores, and says honestly which are at or above random actions."""

import pytest

from benchmarks.generality import GAMES, ROOT, at_least_random, demo_rows, row_of, run_game, table
from worldmodel import envs
from worldmodel.agents.evaluation import Report
from worldmodel.io.files import read_json

DREAMS = ("dream", "dream-seed-2")


def row(game, seed, random, dream, evolved, agent=None, std=4.0):
    means = {"random": random, "dream": dream, "game": evolved, "agent": agent}
    scores = {kind: {"mean": mean, "std": std, "n": 16} for kind, mean in means.items() if mean is not None}
    return {"game": game, "seed": seed, "seconds": 120, "steps": 1, "scores": scores, "hardware": "PC"}


def test_ten_environments_of_several_kinds():
    assert len(GAMES) == 10
    assert len({game.env for game in GAMES.values()}) >= 9
    assert {game.observation for game in GAMES.values()} == {"frames", "numbers"}


@pytest.mark.parametrize("name", [name for name, game in GAMES.items() if game.observation == "numbers"])
def test_environments_of_numbers_can_be_made(name):
    env = envs.make(GAMES[name].env, **GAMES[name].options)
    assert env.reset(seed=1)[0].ndim == 1
    env.close()


def test_at_least_random_allows_a_standard_error_of_the_difference():
    # two means of 16 episodes, standard deviation 4 each: standard error of their difference 2 ** 0.5
    assert at_least_random(row("pong", 1, 10, None, 10), "game")
    assert at_least_random(row("pong", 1, 10, 9, 3), "dream")
    assert not at_least_random(row("pong", 1, 10, 8, 30), "dream")


def test_the_table_has_means_ranges_and_counts():
    rows = [row("pong", 1, -20, -21, -12, -12), row("pong", 2, -18, -21, -30, -18)]
    [line] = [line for line in table({"rows": rows}).splitlines() if "Pong" in line]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == [
        "ALE/Pong-v5",
        "frames",
        "-19.0 (-20.0…-18.0)",
        "-21.0, 1/2",
        "-21.0 (-30.0…-12.0), 1/2",
        "-15.0 (-18.0…-12.0), 2/2",
    ]


def test_rows_of_the_demo_are_those_of_its_results():
    rows = demo_rows("take-cover", [1, 2])
    means = [read_json(ROOT / f"docs/results/doom-take-cover-quick/{name}.json")["mean"] for name in DREAMS]
    assert [one["scores"]["dream"]["mean"] for one in rows] == means
    assert {*rows[0]["scores"]} == {"random", "dream", "agent"}
    assert rows[0]["scores"]["agent"] == rows[0]["scores"]["dream"]


@pytest.mark.slow
def test_a_run_is_that_of_the_command_and_is_not_run_again(tmp_path, monkeypatch, capsys):
    from benchmarks import generality
    from worldmodel.agents.cli.main import main

    calls = []
    small = [
        "--iterations",
        "0",
        "--collect.episodes",
        "3",
        "--memory.num_updates",
        "2",
        "--dream.generations",
        "1",
        "--game.generations",
        "1",
    ]
    small += ["--eval.episodes", "2", "--eval.max_steps", "9", "--game.max_steps", "9", "--collect.max_steps", "9"]

    def quickly(words):
        calls.append(words)
        return main([*words, *small])

    monkeypatch.setattr(generality, "worldmodel", quickly)
    for _ in range(2):
        run_game(tmp_path, "pendulum-vector", 2, workers=1)
    assert len(calls) == 1
    found = row_of(tmp_path, "pendulum-vector", 2)
    assert {*found["scores"]} == {"random", "dream", "game", "agent"}
    assert found["scores"]["agent"]["n"] == 2
    report = Report.load(tmp_path / "pendulum-vector-2-agent.json")  # played on seeds that chose nothing
    assert not {*report.seeds} & {*Report.load(tmp_path / "pendulum-vector-2" / "tests" / "game.json").seeds}
    assert found["seconds"] > 0
    monkeypatch.setattr(generality, "RESULT", tmp_path / "generality.json")
    generality.main(["write", str(tmp_path)])
    assert "Pendulum-v1" in capsys.readouterr().out
    assert read_json(tmp_path / "generality.json")["rows"] == [found, *demo_rows("take-cover", [1, 2, 3])]
    (tmp_path / "later").mkdir()
    generality.main(["write", str(tmp_path / "later")])  # rows of other folders are kept
    assert found in read_json(tmp_path / "generality.json")["rows"]
