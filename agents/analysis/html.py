"""Building blocks of HTML reports; each report is one file with embedded images. Start reading at `write_page`."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from worldmodel.io.files import write_bytes

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
    """Write a page with a title and an HTML body; returns its path."""
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{html.escape(title)}</h1>'
        f"{content}</html>\n"
    )
    write_bytes(path, page.encode())
    return path


def section(title: str, content: str, unfolded: bool = False) -> str:
    """Return a collapsible section, or an empty string without content; ``unfolded``: whether it is open at first."""
    state = " open" if unfolded else ""
    return f"<details{state}><summary>{html.escape(title)}</summary>{content}</details>" if content else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of HTML cells without empty columns; numbers are right-aligned.

    Args:
        heads: Column heads.
        rows: One HTML cell per column in each row. A column is left out if all its cells are empty.
    """
    used = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    head = "".join(f"<th>{html.escape(heads[column])}</th>" for column in used)
    body = "".join(f"<tr>{''.join(_cell(row[column]) for column in used)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>" if any(heads) else f"<table>{body}</table>"


def _cell(content: str) -> str:
    """Return a table cell, with the class ``number`` if its content is a number."""
    attribute = ' class="number"' if re.fullmatch(r"[-+\d.,%±eE ]+", content) else ""
    return f"<td{attribute}>{content}</td>"


def image(content: bytes, alternative: str) -> str:
    """Return an embedded PNG with its alternative text."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'


def figure(content: str, caption: str) -> str:
    """Return a figure of an HTML element and its caption."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def settings_section(settings: Any) -> str:
    """Return a section with a settings dataclass as YAML."""
    return section("Settings", f"<pre>{html.escape(yaml.safe_dump(asdict(settings), sort_keys=False))}</pre>")


def losses(rows: list[dict[str, Any]], part: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return the training and held-out curves of a loss.

    Args:
        rows: Rows of ``metrics.jsonl``.
        part: Key of the loss or of a part of it.

    Returns:
        The update numbers and the values of each curve, by name.
    """
    x = [row["update"] for row in rows]
    return {kind.replace("_", "-"): (x, [row[kind][part] for row in rows]) for kind in ("train", "held_out")}
