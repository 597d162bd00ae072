"""The documentation is correct: code runs, commands parse, links resolve, tutorials show what is printed."""

import argparse
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import worldmodel
import worldmodel.agents.density
from tests.worldmodel.corpora import formats
from worldmodel import FRMDN, VAE, Memory, WorldModel, agents, envs, rollouts
from worldmodel.agents import progress
from worldmodel.agents.cli import main as cli
from worldmodel.agents.cli.commands import COMMANDS
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.runs.run_folder import Run
from worldmodel.start_states import StartStates

PUBLISHED_VAE = True

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if not {"results", "_build"} & set(path.relative_to(ROOT).parts)
}
LINKED = PAGES | {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "benchmarks/**/*.md", "docs/results/**/*.md", "agents/**/*.md", "examples/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
"""Every page whose links are checked."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block: its language and its text."""
SLOW = ("README.md", "docs/density.md", "docs/games.md", "docs/own-environment.md", "docs/tutorials/evolve.md")
"""Pages whose code takes seconds even with small sizes; `tests/test_readme.py` runs README's example in the fast suite."""


def blocks(page, language):
    return [text for kind, text in FENCE.findall(PAGES[page]) if kind == language]


# code -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run folder as `make demo` writes it, with a few steps of CarRacing and an untrained world model."""
    run = Run(tmp_path_factory.mktemp("docs") / "run")
    store = rollouts.collect(
        "FastCarRacing", rollouts.smooth_random, episodes=3, seed=1, max_steps=6, out=run.rollouts_folder
    )
    world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32, hidden_size=8)))
    world.save(run.world_folder)
    StartStates.from_episodes(store.latents(world.vae), num=4).save(run.world_folder)
    return run


def use_small_sizes(monkeypatch, page):
    """Patch the public functions to use small sizes."""

    def limit(module, name, **sizes):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: original(*args, **kwargs | sizes))

    limit(worldmodel, "fit", num_updates=2, batch_size=4)
    limit(agents, "evolve", generations=2, population=4)
    limit(agents, "evaluate", episodes=2, max_steps=5)
    limit(rollouts, "collect", episodes=3, max_steps=6, workers=1)
    limit(rollouts, "DreamFitness", horizon=5)
    limit(rollouts, "EnvFitness", episodes=1, workers=1, max_steps=4)
    limit(agents.density, "DensityConfig", num_updates=2, hidden_size=8, num_components=2, batch_size=4)
    # docs/dreams.md states the number of parameters, 867
    if "hidden_size=256" not in PAGES[page] and page != "docs/dreams.md":
        monkeypatch.setattr(worldmodel, "FRMDN", _narrow(worldmodel.FRMDN))


def _narrow(cls):
    """The same class with few hidden units."""

    def build(self, *args, **sizes):
        cls.__init__(self, *args, **sizes | {"hidden_size": min(sizes.get("hidden_size", 8), 16)})

    return type(cls.__name__, (cls,), {"__init__": build})


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in PAGES if blocks(page, "python")]
)
def test_code_runs(page, tiny, tmp_path, monkeypatch, capsys):
    """Run the code blocks in order with smaller sizes; shapes in comments equal the printed ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "car-racing-quick").symlink_to(tiny.folder)
    if "/data/TIMIT" in PAGES[page]:
        formats.write_timit(tmp_path / "data" / "TIMIT")
    if "/data/MNIST" in PAGES[page]:
        pixels = np.random.default_rng(1).integers(0, 256, (24, 28, 28), np.uint8)
        formats.write_mnist(tmp_path / "data" / "MNIST", pixels, pixels[:12])
    store, world = tiny.store(), tiny.world()
    names = {"__name__": "docs", "store": store, "world": world, "start_states": store.latents(world.vae)}
    use_small_sizes(monkeypatch, page)
    for number, text in enumerate(blocks(page, "python"), 1):
        text = text.replace("/data/", f"{tmp_path}/data/")
        exec(compile(text, f"{page}, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    for expected in re.findall(
        r"^print\(.*\)  # ((?:\(\d|torch\.Size|Box).*)$", "\n".join(blocks(page, "python")), re.MULTILINE
    ):
        assert expected.partition(":")[0] in printed, expected


# commands -------------------------------------------------------------------------------------------------------------


def commands(page):
    """The arguments of every `worldmodel` command in shell blocks and inline code."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    sentences = re.sub(r"^> .*$", "", FENCE.sub("", PAGES[page]), flags=re.MULTILINE)  # without quoted messages
    lines += [
        code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", sentences) if re.match(r"[\w./]*worldmodel ", code)
    ]
    for line in lines:
        words = shlex.split(line, comments=True)
        for part in " ".join(map(shlex.quote, words)).split("'&&'"):
            found = _words(shlex.split(part))
            if found is not None:
                yield found


def _words(words):
    if "worldmodel.agents.cli.main" in words:
        return words[words.index("worldmodel.agents.cli.main") + 1 :]
    return words[1:] if words and Path(words[0]).name == "worldmodel" else None


@pytest.fixture(scope="module")
def parser():
    return cli.build_parser([])


def test_commands_parse(parser, capsys):
    """Every flag, value and command in the pages is valid."""
    for page, words in [(name, words) for name in PAGES for words in commands(name)]:
        words = ["1" if word == "N" else word for word in words]  # "--iterations N"
        if words[0] == "COMMAND" or (len(words) <= 2 and " ".join(words) in COMMANDS):  # a name, not a call
            continue
        fresh = "--print_completion" in words  # a parser can print it only once
        try:
            (cli.build_parser([]) if fresh else parser).parse_args(words)
        except SystemExit as ended:
            assert ended.code == 0, f"{page}: worldmodel {shlex.join(words)}: {capsys.readouterr().err}"


FOREIGN = {
    "--nproc-per-node",
    "--head",
    "--write",
    "--print_config",
    "--help",
    "--version",
    "--also",
    "--ship",
    "--runtime",
}
"""Flags of other programs, of the benchmarks, or of every command."""


def test_flags_exist(parser):
    """Every flag in inline code belongs to a command."""
    known = {flag for sub in _parsers(parser) for action in sub._actions for flag in action.option_strings} | FOREIGN
    for page, text in PAGES.items():
        spans = " ".join(re.findall(r"`(--[^`\n]+)`", FENCE.sub("", text)))
        for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w.]*", spans):
            prefix = flag.endswith(".") and any(one.startswith(flag) for one in known)
            assert flag in known or prefix or flag.startswith("--env_options."), (page, flag)


def _parsers(parser):
    yield parser
    for action in parser._actions:
        for inner in (getattr(action, "choices", None) or {}).values() if hasattr(action, "add_subcommand") else ():
            yield from _parsers(inner)


def test_every_command_is_in_its_reference():
    """The page is generated from the parser and lists every command and every flag with its default."""
    spec = importlib.util.spec_from_file_location("command_pages", ROOT / "docs" / "command_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.MARK in PAGES["docs/command-line.md"]
    sections = re.split(r"^## worldmodel (.*)$", pages.page(), flags=re.MULTILINE)[1:]
    assert sections[::2] == list(COMMANDS)
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        own = Parser(prog=name)
        COMMANDS[name].build(own)
        for action in own._actions:
            if action.option_strings and action.default != argparse.SUPPRESS:
                [row] = re.findall(rf"^\| `{re.escape(action.option_strings[0])}[`,].*$", section, re.MULTILINE)
                if not action.required and action.nargs != 0:
                    assert f"| `{pages._shown(action.default)}` |" in row


# pages ----------------------------------------------------------------------------------------------------------------


def test_links_resolve():
    """Files and headings of relative links exist, and so do the files and modules in code spans."""
    broken = []
    for page, text in LINKED.items():
        prose = FENCE.sub("", text)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'<img src="([^"]+)"', prose):
            if "://" in target:
                continue
            file, _, heading = target.partition("#")
            path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
            if not path.exists() or (heading and heading not in anchors(path)):
                broken.append((page, target))
        if page == "CHANGELOG.md":  # names files that were removed since
            continue
        for path in re.findall(r"`((?:agents|rollouts|envs|worldmodel|tests)/[\w/]+\.(?:py|yaml))`", prose):
            if not (ROOT / path).exists():
                broken.append((page, path))
        for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
            if importlib.util.find_spec(module) is None:
                broken.append((page, module))
    assert broken == []


def anchors(path):
    """Anchors of the headings of a page, as on GitHub."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_public_names_are_in_the_reference():
    packages = (worldmodel, rollouts, envs, agents)
    pages = "\n".join(PAGES[f"docs/api/{package.__name__.rpartition('.')[2]}.md"] for package in packages)
    listed = set(re.findall(r":: (\w+)$", pages, re.MULTILINE))
    names = {name for package in packages for name in package.__all__}
    assert names - listed == {"agents", "envs", "rollouts"}  # they have pages


# tutorials ------------------------------------------------------------------------------------------------------------


def normalized(text):
    """Lines without the parts that differ between machines: numbers, durations and table borders."""
    text = re.sub(r"-?\d[\d,.]*", "#", re.sub(r"[┌┐└┘├┤┬┴┼─│]+", " ", text))
    text = re.sub(r"(# h )?(# min )?# s\b", "#", text)
    text = re.sub(r"latents [#, ]+", "latents ", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_tutorials_print_what_they_show(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setattr(progress.answers, "width", 80)  # created earlier, with the width of another terminal
    for name in ("collect", "memories", "evolve", "dream"):
        page = f"docs/tutorials/{name}.md"
        pairs = re.findall(r"^```bash\n(.*?)^```\n\n```text\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
        assert len(pairs) == len(blocks(page, "bash")) == len(blocks(page, "text"))
        for typed, shown in pairs:
            for line in typed.replace("\\\n", " ").splitlines():
                assert cli.main(shlex.split(line)[1:]) == 0, line
            assert normalized(capsys.readouterr().out) == normalized(shown), typed
