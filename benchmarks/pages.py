"""Write the tables of README and docs from the files in ``docs/results``.

python -m benchmarks.pages             # write the tables
python -m benchmarks.pages --check     # write nothing; exit code 1, with the names of pages whose table differs from its file
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import density_tables, generality, reconstruction, records, results
from worldmodel.io.files import read_json

ROOT = Path(__file__).parent.parent


class Table(NamedTuple):
    """A table in a page, between two marks; ``text`` returns the table."""

    page: str
    begin: str
    end: str
    text: Callable[[], str]


TABLES = (
    Table("README.md", results.BEGIN, results.END, results.table),
    *(
        Table(page, records.MARK, records.END, partial(records.table, every_test))
        for page, every_test in records.PAGES.items()
    ),
    Table(
        "docs/atari-and-vizdoom.md",
        generality.BEGIN,
        generality.END,
        lambda: generality.table(read_json(generality.RESULT)),
    ),
    Table("docs/density.md", density_tables.BEGIN, density_tables.END, density_tables.table),
    Table("docs/frmdn.md", results.MEMORIES, results.MEMORIES_END, results.memories),
    Table(
        "docs/reconstruction.md",
        reconstruction.BEGIN,
        reconstruction.END,
        lambda: reconstruction.table(read_json(reconstruction.RESULT)["rows"]),
    ),
)


def main(words: list[str] | None = None) -> int:
    """Write or check all tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing, and print the names of pages that differ.")
    check = parser.parse_args(words).check
    changed = []
    for page, begin, end, text in TABLES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = results.replaced(before, begin, text(), end, page)
        if after != before:
            changed.append(page)
            if not check:
                path.write_text(after, encoding="utf-8")
    for page in dict.fromkeys(changed):
        print(f"{page} {'differs from docs/results: run python -m benchmarks.pages' if check else 'written'}")
    return 1 if changed and check else 0


if __name__ == "__main__":
    sys.exit(main())
