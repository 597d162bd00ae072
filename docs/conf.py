"""How Sphinx makes the pages: `make docs`."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import command_pages  # noqa: E402  (it lies beside this file)

project, author = "worldmodel", "the authors of worldmodel"
release = metadata.version("worldmodel")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", "worldmodel"
html_static_path: list[str] = []

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3  # so that page.md#a-heading works here as it does on GitHub

default_role = (
    "py:obj"  # `Store` in a docstring is a link where there is such a name here, and code where there is none
)
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
nitpick_ignore_regex = [
    ("py:.*", ".*")
]  # types of torch, numpy and gymnasium, whose pages a build without network lacks

OUTSIDE = {"../benchmarks/README.md": "speed.md", "../README.md": "index.md"}
"""Links that lead out of ``docs`` on GitHub, and the page that stands for them here."""


def _read(app: Any, page: str, source: list[str]) -> None:
    """Fill in what is made when the pages are, and turn links that would lead out of them."""
    source[0] = source[0].replace(command_pages.MARK, command_pages.page())
    for outside, inside in OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside})", f"](/{inside})")


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages that are made anew even where their file did not change."""
    return ["command-line"]


def _shapes(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep a star of a shape, as of ``*batch``, from opening an emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # every second one is code
        parts[::2] = [re.sub(r"(?<=[(\s])\*(?=\w+[,)])", r"\\*", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", _read)
    app.connect("env-get-outdated", _outdated)
    app.connect("autodoc-process-docstring", _shapes)
