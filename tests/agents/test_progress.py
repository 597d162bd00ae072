"""Progress of long work: bars and a live table in a terminal, lines in a log."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from worldmodel.agents import LinearController, evolve
from worldmodel.agents import progress as cli_progress
from worldmodel.training import progress


def sphere(population, seed):
    return -np.square(population - 1.5)


def evolution_output(monkeypatch, terminal: bool) -> str:
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    monkeypatch.setattr(cli_progress, "console", screen)
    with cli_progress.generations("evolve") as display:
        settings = {"seed": 1, "generations": 15, "population": 8, "eval_fitness": sphere, "eval_every": 5}
        evolve(
            LinearController(4, 2), sphere, progress=display.progress, on_generation=display.on_generation, **settings
        )
    return screen.file.getvalue()


def test_terminals_show_the_last_generations_as_a_table(monkeypatch):
    text = evolution_output(monkeypatch, terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("generation  ") :]
    for heading in ("mean", "std", "max", "sigma", "eval", "time"):
        assert heading in last
    numbers = [line.split()[0] for line in last.splitlines() if line.strip()[:1].isdigit()]
    assert numbers == [str(number) for number in range(4, 16)]


def test_logs_have_lines_without_control_codes(monkeypatch):
    text = evolution_output(monkeypatch, terminal=False)
    assert "\x1b" not in text
    assert text.startswith("evolve")
    assert "15/15" in text


def test_rates_start_at_the_first_tick_and_ignore_idle_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress.Clock()
    now[0] = 200.0  # time before the first tick does not count
    clock.tick(4)
    assert (clock.speed("episodes"), clock.seconds_left(8)) == ("", None)
    now[0] = 210.0
    clock.tick(8)
    now[0] = 213.0
    clock.tick(8)
    assert clock.speed("episodes") == "2.5 s/episode"
    assert clock.seconds_left(12) == 7.0
    now[0] = 300.0
    assert clock.seconds_left(12) == 0.0
    assert cli_progress.duration(clock.seconds_left(40)) == "0 s"
    clock.tick(1_004)  # at 300 s: the later half began at 250 s, after the unit of 210 s
    assert clock.speed("generations") == "11.1 generations/s"


def test_the_start_of_workers_does_not_distort_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress.Clock()
    clock.tick(0)
    for second in range(30, 95):  # 30 s of start, then a unit each second
        now[0] = second
        clock.tick(second - 29)
    assert clock.seconds_left(165) == pytest.approx(100, rel=0.05)


def test_rows_show_evaluation_and_speed():
    row = {"generation": 7, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    row |= {
        "eval": 5.0,
        "eval_std": 1.5,
        "eval_n": 16,
        "steps": 900,
        "eval_steps": 100,
    }
    assert table_lines(row)[1:] == ["7 1.0 2.0 3.0 0.25 5.0 ± 1.5 (16) 1,000 500 2.0 s"]


def test_tables_have_the_columns_of_all_rows():
    plain = {"generation": 1, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    assert table_lines(plain) == ["generation mean std max sigma time", "1 1.0 2.0 3.0 0.25 2.0 s"]
    lines = table_lines(plain, plain | {"hard_episodes": 9.0})
    assert lines[0] == "generation mean std max hard episodes sigma time"
    assert lines[2] == "1 1.0 2.0 3.0 9.0 0.25 2.0 s"


def table_lines(*rows):
    """Lines of the table, with single spaces."""
    screen = Console(file=io.StringIO(), width=140)
    screen.print(cli_progress.table_of(rows))
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_durations_are_rounded_before_they_are_split():
    expected = {59.4: "59 s", 59.6: "1 min 0 s", 419.7: "7 min 0 s", 3599.7: "1 h 0 min", 7380: "2 h 3 min"}
    assert {seconds: cli_progress.duration(seconds) for seconds in expected} == expected


LONG = [
    ("collect vizdoom.gymnasium_wrapper:VizdoomTakeCover-v1", "episodes", "244 steps an episode"),
    ("train memory", "updates", "loss 31.23, nll 30.12, best held-out loss 31.94"),
    ("evolve in the game", "generations", "12/96 episodes; mean -12.3, max 123.4, best check 123.4"),
    ("test in SuperMarioBros-1-1", "episodes", ""),
]
"""The longest titles and notes."""


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize(("title", "unit", "note"), LONG)
def test_a_bar_fits_the_terminal_and_the_time_left_stays(monkeypatch, width, title, unit, note):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    task = progress.Task(title, unit)
    task.update(0, 100_000, note)
    now[0] = 3_700.0
    task.update(12_345, 100_000, note)
    screen = Console(file=io.StringIO(), force_terminal=True, width=width)
    screen.print(task)
    [line] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue()).splitlines()
    assert len(line) <= width - 2  # leaves room for ^C
    assert "7 h 17 min" in line
    if width >= 60:
        assert "3.34 " in line
        assert "12345/100000" in line


def test_a_narrow_terminal_has_fewer_columns():
    row = {"generation": 7, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0, "hard_episodes": -12.5}
    row |= {"eval": 512.5, "eval_std": 101.5, "eval_n": 16, "steps": 123_456}
    for width in (100, 80, 60, 40):
        screen = Console(file=io.StringIO(), width=width)
        screen.print(cli_progress.table_of([row], width))
        heads, *cells = screen.file.getvalue().splitlines()
        assert len(cells) == 1
        assert {"generation", "mean", "eval"} <= set(heads.split()) or width == 40
        assert "…" not in cells[0]


def bar_output(monkeypatch, work) -> str:
    """Output of an interrupted bar in a terminal, with control codes."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(cli_progress, "console", screen)
    with pytest.raises(KeyboardInterrupt), cli_progress.bar("train memory", "updates") as report:
        work(report)
        raise KeyboardInterrupt
    return screen.file.getvalue()


def test_an_interrupt_leaves_no_bar(monkeypatch):
    text = bar_output(monkeypatch, lambda report: [report(done, 10, "loss 1") for done in range(4)])
    erased = text[text.rindex("train memory") :]
    assert "\x1b[2K" in erased  # the line of the bar is cleared after it was last drawn
    assert not re.search(r"\n(?!.*\x1b\[1A)", erased)  # and nothing follows below it


def test_work_without_reports_shows_no_bar(monkeypatch):
    assert "train memory" not in bar_output(monkeypatch, lambda report: None)


@pytest.mark.parametrize(("terminal", "unit", "expected"), [(True, "updates", "400"), (False, "generations", "400")])
def test_resumed_work_shows_its_start(monkeypatch, terminal, unit, expected):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=140, highlight=False)
    monkeypatch.setattr(cli_progress, "console", screen)
    with cli_progress.bar("work", unit) as report:
        report(400, 800, "")
        report(401, 800, "")
    assert expected in screen.file.getvalue()


def test_fresh_and_finished_work_is_not_resumed(monkeypatch):
    for first, total in ((0, 800), (1, 800), (800, 800)):
        assert progress.Task("work", "updates").update(first, total, "") is None


def test_logs_name_long_work_without_a_count(monkeypatch):
    screen = Console(file=io.StringIO(), width=140)
    monkeypatch.setattr(cli_progress, "console", screen)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with cli_progress.busy("compile"):
        cli_progress.threading.Event().wait(0.2)
    assert screen.file.getvalue().startswith("compile")
    assert screen.file.getvalue().count("\n") == 1
    monkeypatch.setattr(progress, "LINE_SECONDS", 60.0)
    with cli_progress.busy("quick"):
        pass
    assert "quick" not in screen.file.getvalue()
