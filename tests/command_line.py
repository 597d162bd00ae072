"""The command line, called in the process of the tests."""

from worldmodel.agents.cli.main import main


def exit_code(*words: str) -> int:
    """Run a command and return its exit code, whether `main` returns it or the parser raises SystemExit."""
    try:
        return main(list(words))
    except SystemExit as error:
        return error.code


def refused(capsys, *words: str) -> str:
    """Run a command that must fail with exit code 2 and a single error, and return the error line."""
    capsys.readouterr()
    code = exit_code(*words)
    stderr = capsys.readouterr().err
    assert code == 2, stderr
    *before, line = stderr.splitlines()
    assert line.startswith("worldmodel"), stderr
    assert not any(other.startswith(("worldmodel", "Traceback")) for other in before), stderr
    return line
