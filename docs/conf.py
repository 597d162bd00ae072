"""Configuration of Sphinx; `make docs` builds the pages."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import command_pages  # noqa: E402  (a module in this folder)

project, author = "worldmodel", "the authors of worldmodel"
release = metadata.version("worldmodel")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", "worldmodel"
html_static_path: list[str] = []

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3  # links such as page.md#a-heading work as on GitHub

default_role = "py:obj"  # `Store` in a docstring is a link if the name exists here, otherwise code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch, numpy and gymnasium: a build without network has no links

OUTSIDE = {"../benchmarks/README.md": "speed.md", "../README.md": "index.md"}
"""Links to files outside ``docs``, and the page that replaces each of them."""


def _read(app: Any, page: str, source: list[str]) -> None:
    """Insert the reference of the command line, and replace links to files outside ``docs``."""
    source[0] = source[0].replace(command_pages.MARK, command_pages.page())
    for outside, inside in OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside})", f"](/{inside})")


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Return the pages that are built again even if their file did not change."""
    return ["command-line"]


SHORT_NAME = re.compile(r"`((?:agents|envs|rollouts)\.[\w.]+)`")
"""A name of a subpackage, as after ``from worldmodel import rollouts``."""


def _shapes(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape the star of a shape such as ``*batch``, which would start an emphasis, and link short names."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # every second part is code
        parts[::2] = [re.sub(r"(?<=[(\s])\*(?=\w+[,)])", r"\\*", part) for part in parts[::2]]
        parts[::2] = [SHORT_NAME.sub(r"`\1 <worldmodel.\1>`", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app: Any) -> None:
    """Connect the functions above to the events of Sphinx."""
    app.connect("source-read", _read)
    app.connect("env-get-outdated", _outdated)
    app.connect("autodoc-process-docstring", _shapes)
