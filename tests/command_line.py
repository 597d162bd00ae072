"""The command line, called within the tests' own process."""

from agents.cli import main


def exit_code(*words: str) -> int:
    """What the shell gets: the parser leaves by itself, everything else comes back."""
    try:
        return main(list(words))
    except SystemExit as left:
        return left.code


def refused(capsys, *words: str) -> str:
    """The line that a command ends with that must fail: exit code 2, and no second error."""
    capsys.readouterr()
    code = exit_code(*words)
    shown = capsys.readouterr().err
    assert code == 2, shown
    *before, line = shown.splitlines()
    assert line.startswith("worldmodel"), shown
    assert not any(other.startswith(("worldmodel", "Traceback")) for other in before), shown
    return line
