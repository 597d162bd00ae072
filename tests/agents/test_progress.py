"""What a person sees of long work: bars and a live table on a screen, lines in a log."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from agents import LinearController, evolve
from agents import progress as cli_progress
from worldmodel import progress


def sphere(population, seed):
    return -np.square(population - 1.5)


def shown(monkeypatch, terminal: bool) -> str:
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    monkeypatch.setattr(cli_progress, "console", screen)
    with cli_progress.generations("evolve") as shown:
        settings = {"seed": 1, "generations": 15, "population": 8, "eval_fitness": sphere, "eval_every": 5}
        evolve(LinearController(4, 2), sphere, progress=shown.progress, on_generation=shown.on_generation, **settings)
    return screen.file.getvalue()


def test_a_screen_shows_the_last_generations_as_a_table(monkeypatch):
    text = shown(monkeypatch, terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("generation  ") :]
    for heading in ("mean", "std", "max", "sigma", "eval", "time"):
        assert heading in last
    numbers = [line.split()[0] for line in last.splitlines() if line.strip()[:1].isdigit()]
    assert numbers == [str(number) for number in range(4, 16)]


def test_a_log_gets_lines_without_control_codes(monkeypatch):
    text = shown(monkeypatch, terminal=False)
    assert "\x1b" not in text
    assert text.startswith("evolve")
    assert "15/15" in text


def test_rates_count_from_the_first_tick_and_stand_still_without_work(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress.Clock()
    now[0] = 200.0  # what came before the first tick is no work
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
    clock.tick(1_004)
    assert clock.speed("generations") == "10 generations/s"


def test_a_row_says_what_was_tested_and_how_fast():
    row = {"generation": 7, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    row |= {
        "eval": 5.0,
        "eval_std": 1.5,
        "eval_n": 16,
        "steps": 900,
        "eval_steps": 100,
        "episodes": 3,
        "noise_fraction": 0.4,
    }
    assert printed(row)[1:] == ["7 1.0 2.0 3.0 0.25 5.0 ± 1.5 (16) 3 0.4 1,000 500 2.0 s"]


def test_a_table_has_the_columns_that_some_row_has():
    plain = {"generation": 1, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    assert printed(plain) == ["generation mean std max sigma time", "1 1.0 2.0 3.0 0.25 2.0 s"]
    found = printed(plain, plain | {"hard_episodes": 9.0})
    assert found[0] == "generation mean std max hard episodes sigma time"
    assert found[2] == "1 1.0 2.0 3.0 9.0 0.25 2.0 s"


def printed(*rows):
    """The table's lines, with single spaces."""
    screen = Console(file=io.StringIO(), width=140)
    screen.print(cli_progress.table_of(rows))
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_durations_are_rounded_before_they_are_parted():
    said = {59.4: "59 s", 59.6: "1 min 0 s", 419.7: "7 min 0 s", 3599.7: "1 h 0 min", 7380: "2 h 3 min"}
    assert {seconds: cli_progress.duration(seconds) for seconds in said} == said


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
    screen.print(cli_progress._Row(task))
    [line] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue()).splitlines()
    assert len(line) <= width - 2  # ^C fits behind it
    assert "7 h 17 min" in line
    if width >= 60:
        assert "3.34 " in line
        assert "12345/100000" in line


def test_a_narrow_terminal_has_fewer_columns():
    row = {"generation": 7, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0, "hard_episodes": -12.5}
    row |= {"eval": 512.5, "eval_std": 101.5, "eval_n": 16, "steps": 123_456, "episodes": 3, "noise_fraction": 0.4}
    for width in (100, 80, 60, 40):
        screen = Console(file=io.StringIO(), width=width)
        screen.print(cli_progress.table_of([row], width))
        heads, *cells = screen.file.getvalue().splitlines()
        assert len(cells) == 1
        assert {"generation", "mean", "eval"} <= set(heads.split()) or width == 40
        assert "…" not in cells[0]


def drawn(monkeypatch, work) -> str:
    """What stays of a bar, as a terminal would show it: lines that were erased are left out."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(cli_progress, "console", screen)
    with pytest.raises(KeyboardInterrupt), cli_progress.bar("train memory", "updates") as report:
        work(report)
        raise KeyboardInterrupt
    return screen.file.getvalue()


def test_an_interrupt_leaves_no_bar(monkeypatch):
    text = drawn(monkeypatch, lambda report: [report(done, 10, "loss 1") for done in range(4)])
    erased = text[text.rindex("train memory") :]
    assert "\x1b[2K" in erased  # the line of the bar is cleared after it was last drawn
    assert not re.search(r"\n(?!.*\x1b\[1A)", erased)  # and nothing goes on below it


def test_work_that_never_reports_draws_no_bar(monkeypatch):
    assert "train memory" not in drawn(monkeypatch, lambda report: None)


@pytest.mark.parametrize(("terminal", "unit", "said"), [(True, "updates", "400"), (False, "generations", "400")])
def test_work_that_goes_on_says_from_where(monkeypatch, terminal, unit, said):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=140, highlight=False)
    monkeypatch.setattr(cli_progress, "console", screen)
    with cli_progress.bar("work", unit) as report:
        report(400, 800, "")
        report(401, 800, "")
    assert said in screen.file.getvalue()


def test_fresh_and_finished_work_does_not_go_on(monkeypatch):
    for first, total in ((0, 800), (1, 800), (800, 800)):
        assert progress.Task("work", "updates").update(first, total, "") is None


def test_a_log_says_what_takes_long_without_a_count(monkeypatch):
    screen = Console(file=io.StringIO(), width=140)
    monkeypatch.setattr(cli_progress, "console", screen)
    monkeypatch.setattr(cli_progress, "LINE_SECONDS", 0.01)
    with cli_progress.busy("compile"):
        cli_progress.threading.Event().wait(0.2)
    assert screen.file.getvalue().startswith("compile")
    assert screen.file.getvalue().count("\n") == 1
    monkeypatch.setattr(cli_progress, "LINE_SECONDS", 60.0)
    with cli_progress.busy("quick"):
        pass
    assert "quick" not in screen.file.getvalue()
