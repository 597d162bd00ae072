"""Completion of the command line in shells."""

import shutil
import subprocess

import pytest

from worldmodel.agents.cli.commands import COMMANDS
from worldmodel.agents.cli.main import main

SCRIPT = """
source "$0"
COMP_WORDS=(worldmodel "$@"); COMP_CWORD=$#; COMP_LINE="worldmodel $*"; COMP_POINT=${#COMP_LINE}
$(complete -p worldmodel | sed 's/.*-F \\([^ ]*\\).*/\\1/') worldmodel "${@: -1}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completion in bash, as after a press of the tab key behind the words."""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """A function from words to the completions of the last one, by the script for bash."""
    if not (shell := shutil.which("bash")):
        pytest.skip("needs bash")
    path = tmp_path_factory.mktemp("completion") / "worldmodel.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w", encoding="utf-8") as file:
        patch.setattr("sys.stdout", file)
        with pytest.raises(SystemExit) as stop:
            main(["--print_completion", "shtab-bash"])
    assert stop.value.code == 0

    def complete(*words: str) -> set[str]:
        call = [shell, "--norc", "-c", SCRIPT, str(path), *words]
        return set(subprocess.run(call, capture_output=True, text=True, check=True).stdout.split())

    return complete


def test_bash_completes_commands(bash):
    assert bash("") >= {name.split()[0] for name in COMMANDS}
    assert bash("ev") == {"evolve", "evaluate"}
    assert bash("train", "") >= {"vae", "memory"}


def test_bash_completes_options(bash):
    assert bash("evaluate", "--eval.ep") == {"--eval.episodes"}
    assert bash("train", "vae", "--vae.num_upd") == {"--vae.num_updates"}


def test_unknown_shells_give_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--print_completion", "shtab-dos"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
