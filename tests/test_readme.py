"""README's example runs, and tables that differ from their files are reported and rewritten."""

import functools
import re
import shutil
from pathlib import Path

import pytest

import worldmodel
from benchmarks import pages
from worldmodel import agents, rollouts

PUBLISHED_VAE = True

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_example_runs(monkeypatch, capsys):
    """Run the code block with smaller defaults."""
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    collect, evaluate = rollouts.collect, agents.evaluate
    monkeypatch.setattr(worldmodel, "fit", functools.partial(worldmodel.fit, num_updates=3, batch_size=4))
    monkeypatch.setattr(agents, "evolve", functools.partial(agents.evolve, generations=2, population=4))
    monkeypatch.setattr(rollouts, "collect", lambda *a, episodes, **k: collect(*a, episodes=3, max_steps=6, **k))
    monkeypatch.setattr(agents, "evaluate", lambda *a, episodes, **k: evaluate(*a, episodes=2, max_steps=5, **k))
    monkeypatch.setattr(rollouts, "DreamFitness", functools.partial(rollouts.DreamFitness, horizon=5, num_rollouts=2))
    exec(compile(block, "README.md", "exec"), {})
    assert "CarRacing" in capsys.readouterr().out


@pytest.mark.slow
def test_outdated_tables_are_reported_and_rewritten(tmp_path, monkeypatch, capsys):
    names = {table.page for table in pages.TABLES}
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    for table in pages.TABLES:
        monkeypatch.setattr(pages, "TABLES", (table,))
        assert pages.main([]) == 0
        path = tmp_path / table.page
        original = path.read_text(encoding="utf-8")
        if table.text():
            row = original.partition(table.begin)[2].splitlines()[2]
            outdated = original.replace(row, re.sub(r"\d(?=[^\d]*$)", lambda digit: str(9 - int(digit[0])), row))
        else:  # no results yet
            outdated = original.replace(table.begin, f"{table.begin}| a removed row |\n")
        path.write_text(outdated)
        assert pages.main(["--check"]) == 1
        assert table.page in capsys.readouterr().out
        assert pages.main([]) == 0
        assert path.read_text(encoding="utf-8") == original
