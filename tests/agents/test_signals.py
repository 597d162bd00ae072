"""SIGTERM ends a command once, at any time, and leaves the signal handlers of a host program unchanged."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from worldmodel.agents.cli import commands
from worldmodel.agents.cli.main import main
from worldmodel.training.signals import Interrupt

ROOT = Path(__file__).parent.parent.parent
STOPPED = r"[^\n]+\n"
"""One line."""
SCRIPT = """
import signal, sys, time, weakref
from worldmodel.agents.cli import main as cli
from worldmodel.agents.cli import commands

class Thing:
    pass

def sigterm(gone=None):
    signal.raise_signal(signal.SIGTERM)

def collected(options):
    thing = Thing()
    finalizer = weakref.ref(thing, sigterm)
    del thing
    print("went on", flush=True)
    time.sleep(30)

def twice(options):
    try:
        sigterm()
    finally:
        sigterm()
        print("cleaned up", flush=True)

def spoilt(options):
    thing = Thing()
    finalizer = weakref.ref(thing, lambda gone: 1 / 0)
    del thing
    print("went on", flush=True)

def parsing(sub):
    sigterm()

command = commands.COMMANDS["doctor"]
{change}
sys.argv = ["worldmodel", "doctor"]
code = cli.main()
sigterm()  # nothing breaks into the end
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "output", "errors"),
    [
        ("run=collected", 130, "went on\n", STOPPED),
        ("run=twice", 130, "cleaned up\n", STOPPED),
        ("build=parsing", 130, "", STOPPED),
        ("run=spoilt", 0, "went on\n", "ZeroDivisionError"),
    ],
    ids=["in a finalizer", "while cleaning up", "while parsing", "another error in a finalizer"],
)
def test_a_command_ends_with_one_line(change, code, output, errors):
    script = SCRIPT.format(change=f'commands.COMMANDS["doctor"] = command._replace({change})')
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert (result.returncode, result.stdout) == (code, output)
    assert re.fullmatch(errors, result.stderr) if code else errors in result.stderr


def test_an_interrupt_is_raised_once_unless_it_was_lost(monkeypatch):
    killed, interrupts = [], Interrupt()
    monkeypatch.setattr(os, "kill", lambda *words: killed.append(words))
    monkeypatch.setattr(threading, "Timer", lambda seconds, call, words: SimpleNamespace(start=lambda: call(*words)))
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGTERM, None)
    interrupts.handle(signal.SIGTERM, None)
    assert not killed
    interrupts.again(SimpleNamespace(exc_type=KeyboardInterrupt))
    assert killed == [(os.getpid(), signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGTERM, None)


def test_a_program_that_calls_main_keeps_its_signal_handlers(monkeypatch, capsys):
    def stopped(options):
        signal.raise_signal(signal.SIGTERM)

    def handler(number, frame):
        raise AssertionError("the host's own answer")

    before, hook = signal.signal(signal.SIGTERM, handler), sys.unraisablehook
    monkeypatch.setitem(commands.COMMANDS, "doctor", commands.COMMANDS["doctor"]._replace(run=stopped))
    try:
        assert main(["doctor"]) == 130
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sys.unraisablehook is hook
    assert re.fullmatch(STOPPED, capsys.readouterr().err)


@pytest.mark.parametrize(("words", "resumes"), [(["collect", "CartPole-v1"], True), (["inspect", "runs/x"], False)])
def test_only_a_command_that_resumes_is_printed_to_run_again(monkeypatch, capsys, words, resumes):
    stopped = commands.COMMANDS[words[0]]._replace(run=lambda options: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setitem(commands.COMMANDS, words[0], stopped)
    assert main(words) == 130
    assert (f"worldmodel {' '.join(words)}" in capsys.readouterr().err) == resumes


def test_main_works_in_any_thread(monkeypatch):
    codes = []
    monkeypatch.setitem(commands.COMMANDS, "doctor", commands.COMMANDS["doctor"]._replace(run=lambda options: 0))
    thread = threading.Thread(target=lambda: codes.append(main(["doctor"])))
    thread.start()
    thread.join(20)
    assert codes == [0]
