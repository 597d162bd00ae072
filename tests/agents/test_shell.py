"""Printed commands run as printed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.agents import progress
from worldmodel.agents.shell import command


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The running script, in a virtual environment below the current folder."""
    script = tmp_path / ".venv" / "bin" / "worldmodel"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\necho ours $*\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/worldmodel", "run"])
    return script


def shell(line: str) -> str:
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout.strip()


def test_commands_contain_the_path_if_the_shell_lacks_the_program(installed, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    line = command("worldmodel", "train", "vae", Path("runs/my run"))
    assert shlex.split(line)[0] == ".venv/bin/worldmodel"
    assert shell(line) == "ours train vae runs/my run"


def test_commands_contain_the_name_if_the_shell_has_the_program(installed, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join([str(installed.parent), "/usr/bin", "/bin"]))
    assert command("worldmodel", "inspect", "x") == "worldmodel inspect x"


def test_another_program_of_that_name_is_not_started(installed, monkeypatch, tmp_path):
    other = tmp_path / "other" / "worldmodel"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho another\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(other.parent), "/usr/bin", "/bin"]))
    assert shell(command("worldmodel", "doctor")) == "ours doctor"


def test_commands_contain_the_absolute_path_of_a_program_elsewhere(installed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(installed), "run"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir("/")
    assert shell(command("worldmodel", "doctor")) == "ours doctor"


def test_commands_use_the_running_python(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for folder in (Path.cwd(), Path("/")):  # a path below the current folder is printed relative to it
        monkeypatch.chdir(folder)
        first = shlex.split(command("python", "-c", "0"))[0]
        assert os.path.abspath(shutil.which(first)) == os.path.abspath(sys.executable)
    assert command("ls", "a b") == "ls 'a b'"


def test_the_next_command_can_be_copied_into_a_shell(installed, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    progress.next_hint("worldmodel", "train", "vae", Path("runs/my run"))
    line = capsys.readouterr().out.partition(": ")[2]
    assert shell(line) == "ours train vae runs/my run"
