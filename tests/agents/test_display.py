"""What a person sees of an evolution: a live table on a screen, calm lines in a log."""

import io
import re
from pathlib import Path

import numpy as np
from rich.console import Console

from agents import LinearController, display, evolve


def sphere(population, seed):
    return -np.square(population - 1.5)


def shown(monkeypatch, terminal: bool) -> str:
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    monkeypatch.setattr(display, "console", screen)
    with display.generations("evolve") as told:
        settings = {"seed": 1, "generations": 15, "population": 8, "check": sphere, "check_every": 5}
        evolve(LinearController(4, 2), sphere, progress=told.progress, watch=told.watch, **settings)
    return screen.file.getvalue()


def test_a_screen_shows_the_last_generations_as_a_table(monkeypatch):
    text = shown(monkeypatch, terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("generation  ") :]
    for heading in ("mean", "std", "max", "sigma", "check", "time"):
        assert heading in last
    numbers = [line.split()[0] for line in last.splitlines() if line.strip()[:1].isdigit()]
    assert numbers == [str(number) for number in range(4, 16)]


def test_the_next_command_can_be_copied_into_a_shell(monkeypatch):
    screen = Console(file=io.StringIO(), width=140)
    monkeypatch.setattr(display, "answers", screen)
    display.say_next("worldmodel", "train", "vae", Path("runs/my run"))
    assert screen.file.getvalue() == "Next: worldmodel train vae 'runs/my run'\n"


def test_a_log_gets_lines_without_control_codes(monkeypatch):
    text = shown(monkeypatch, terminal=False)
    assert "\x1b" not in text
    assert text.startswith("evolve ...\n")
    assert "evolve: 15/15" in text


def test_rates_count_from_the_first_tick_and_stand_still_without_work(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    clock = display._Clock()
    now[0] = 200.0  # what came before the first tick is no work
    clock.tick(4)
    assert (clock.speed("episodes"), clock.left(8)) == ("", None)
    now[0] = 210.0
    clock.tick(8)
    now[0] = 213.0
    clock.tick(8)
    assert clock.speed("episodes") == "2.5 s/episode"
    assert clock.left(12) == 7.0
    now[0] = 300.0
    assert clock.left(12) == 0.0
    assert display.duration(clock.left(40)) == "0 s"
    clock.tick(1_004)
    assert clock.speed("generations") == "10 generations/s"


def test_a_row_says_what_was_tested_and_how_fast():
    row = {"generation": 7, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    row |= {
        "check": 5.0,
        "check_std": 1.5,
        "check_n": 16,
        "steps": 900,
        "check_steps": 100,
        "episodes": 3,
        "noise": 0.4,
    }
    assert printed(row)[1:] == ["7 1.0 2.0 3.0 0.25 5.0 ± 1.5 (16) 3 0.4 1,000 500 2.0 s"]


def test_a_table_has_the_columns_that_some_row_has():
    plain = {"generation": 1, "mean": 1.0, "std": 2.0, "max": 3.0, "sigma": 0.25, "seconds": 2.0}
    assert printed(plain) == ["generation mean std max sigma time", "1 1.0 2.0 3.0 0.25 2.0 s"]
    found = printed(plain, plain | {"scouted": 9.0})
    assert found[0] == "generation mean std max scouted sigma time"
    assert found[2] == "1 1.0 2.0 3.0 9.0 0.25 2.0 s"


def printed(*rows):
    """The table's lines, with single spaces."""
    screen = Console(file=io.StringIO(), width=140)
    screen.print(display.table_of(rows))
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_durations_are_rounded_before_they_are_parted():
    said = {59.4: "59 s", 59.6: "1 min 0 s", 419.7: "7 min 0 s", 3599.7: "1 h 0 min", 7380: "2 h 3 min"}
    assert {seconds: display.duration(seconds) for seconds in said} == said
