"""What the pages of reports are made of: one HTML file with its pictures in it."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from worldmodel import migration
from worldmodel.io import read_jsonl, write_bytes

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } img, video { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } pre { background: #f6f6f6; padding: 1rem; overflow: auto; }
figcaption, .note { color: #555; font-size: .9rem; } figure { margin: 1rem 0; }
details { border-top: 1px solid #ddd; padding: .6rem 0; } summary { font-size: 1.3rem; font-weight: 600; cursor: pointer; }
.bad { color: #b00020; font-weight: 600; } .weak { color: #8a5a00; }
"""


def write_page(path: Path, title: str, content: str) -> Path:
    """Write a page whose body is HTML; returns its path."""
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{html.escape(title)}</h1>'
        f"{content}</html>\n"
    )
    write_bytes(path, page.encode())
    return path


def section(title: str, content: str, unfolded: bool = False) -> str:
    """A part of a page, which a click on its title folds and unfolds; nothing, where there is no content."""
    state = " open" if unfolded else ""
    return f"<details{state}><summary>{html.escape(title)}</summary>{content}</details>" if content else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, without the columns in which no row has anything; numbers stand to the right."""
    used = [at for at in range(len(heads)) if any(row[at] for row in rows)]
    head = "".join(f"<th>{html.escape(heads[at])}</th>" for at in used)
    body = "".join(f"<tr>{''.join(_cell(row[at]) for at in used)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>" if any(heads) else f"<table>{body}</table>"


def _cell(content: str) -> str:
    kind = ' class="number"' if re.fullmatch(r"[-+\d.,%±eE ]+", content) else ""
    return f"<td{kind}>{content}</td>"


def image(content: bytes, alternative: str) -> str:
    """A PNG, inside of the page."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'


def settings_section(settings: Any) -> str:
    """A dataclass of settings as YAML."""
    return section("Settings", f"<pre>{html.escape(yaml.safe_dump(asdict(settings), sort_keys=False))}</pre>")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; none, if it is not there."""
    if not path.exists():
        return []
    return [migration.renamed(row, migration.GENERATION) for row in read_jsonl(path)]


def losses(rows: list[dict[str, Any]], part: str) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of a training's loss, or of a part of it, from its rows."""
    x = [row["update"] for row in rows]
    return {kind.replace("_", "-"): (x, [row[kind][part] for row in rows]) for kind in ("train", "held_out")}
