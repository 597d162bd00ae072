"""Each subcommand of the command line: what it takes (`build_...`), and a thin layer over the public API.

In the order of the story; `COMMANDS` at the end is what `agents.cli` makes its parser of.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from agents import settings as chapters
from agents.density_commands import DENSITY_COMMANDS
from agents.display import answers, one_voice
from agents.parser import Parser

WORLDS = {"car-racing": "CarRacing", "mario": "SuperMarioBros-1-1"}
"""Names of the stories that have presets of their own; any other environment id uses the general ones."""
Preset = Literal["quick", "standard", "paper"]


@dataclass(frozen=True)
class Common:
    """Where and how.

    Args:
        seed: of everything.
        workers: processes that play the game.
        backend: where they are: "loky" (this machine), "ray" (a Ray cluster) or "ray://HOST:PORT".
    """

    seed: int = 1
    workers: int = 2
    backend: str = "loky"


# run ------------------------------------------------------------------------------------------------------------------


def build_run(parser: Parser) -> None:
    """Tell the whole story on one environment: collect, train, evolve in dreams and in the game, test, report.

    WORLD is car-racing, mario, or any Gymnasium id whose environment shows pixels. The same command continues a run
    that was stopped.
    """
    parser.add_argument("world", type=str, help="car-racing, mario, or an environment id")
    parser.add_argument(
        "--preset", type=Preset, default="standard", help="quick: minutes; standard: hours; paper: days"
    )
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/WORLD-PRESET)")
    parser.add_argument("--config", action="config", help="a YAML file with settings, such as a run's config.yaml")
    parser.add_argument(
        "--env", type=str | None, default=None, help="stands in a run's config.yaml; must be that of WORLD"
    )
    parser.add_class_arguments(chapters.RunSettings, skip={"env"})


def run(options: Namespace) -> None:
    """Tell the story."""
    from agents import story, whole
    from agents.run import Run

    parser = Parser()
    parser.add_class_arguments(chapters.RunSettings)
    names = chapters.RunSettings.__dataclass_fields__
    given = {name: options[name] for name in names if name != "env"}
    built = parser.instantiate(Namespace(env=WORLDS.get(options.world, options.world), **given))
    settings = chapters.RunSettings(**{name: built[name] for name in names})
    if options.env not in (None, settings.env):
        raise ValueError(f"--config is of {options.env}, asked for {settings.env}")
    chapters.check(settings)
    chapters.check_together(settings)
    slug = options.world.replace("/", "-").replace(":", "-")
    folder = Path(options.out or f"runs/{slug}-{options.preset}")
    _known(settings.env, settings.env_options | settings.test_options)
    whole.tell(settings, folder)
    told = Run(folder)
    table = Table("chapter", "figures", title=f"{settings.env}: {folder}", title_justify="left")
    for row in story.summary(told):
        table.add_row(*map(Text, row))
    answers.print(table)
    answers.print(f"Report: {folder / 'report.html'}", markup=False)
    answers.print(f"Next: worldmodel dream {folder}", markup=False)


# collect --------------------------------------------------------------------------------------------------------------


def build_collect(parser: Parser) -> None:
    """Collect episodes of an environment into a run folder."""
    parser.add_argument("env", type=str, help="CarRacing, SuperMarioBros-1-1, or any Gymnasium id with pixels")
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/ENV)")
    parser.add_argument("--env_options", type=dict[str, Any], default={}, help="arguments of envs.make, as JSON")
    parser.add_argument(
        "--official", type=bool, default=False, help="play CarRacing itself; else its fast twin, of the same physics"
    )
    parser.add_argument("--config", action="config", help="a YAML file with these settings")
    parser.add_class_arguments(chapters.Collecting)
    parser.add_class_arguments(Common)


def collect(options: Namespace) -> None:
    """Collect."""
    from agents import story
    from agents.run import Run
    from rollouts.workers import check_backend

    settings = _settings(chapters.Collecting, options)
    env = WORLDS.get(options.env, options.env)
    run = Run(Path(options.out or f"runs/{env.replace('/', '-').replace(':', '-')}"))
    env = env if options.official else chapters.FAST.get(env, env)
    check_backend(options.backend, options.workers)
    _known(env, options.env_options)
    common = (options.seed, options.workers, options.env_options, options.backend)
    with run.locked():
        store = story.collect(run, env, settings, *common)
    answers.print(f"{len(store)} episodes, {store.steps:,} steps in {run.rollouts_folder}", markup=False)
    answers.print(f"Next: worldmodel train vae {run.folder}", markup=False)


# train ----------------------------------------------------------------------------------------------------------------


def build_train_vae(parser: Parser) -> None:
    """Train the VAE on a run folder's frames."""
    _add_run(parser)
    parser.add_class_arguments(chapters.Seeing)
    parser.add_argument("--seed", type=int, default=1, help="of everything")


def train_vae(options: Namespace) -> None:
    """Train the eye."""
    from agents import story
    from agents.run import Run

    one_voice()
    run = Run(Path(options.run))
    with run.locked():
        story.train_vae(run, _settings(chapters.Seeing, options), options.seed)
    answers.print(f"VAE in {run.folder / 'vae'}", markup=False)
    answers.print(f"Next: worldmodel train memory {run.folder}", markup=False)


def build_train_memory(parser: Parser) -> None:
    """Train the memory on a run folder's encoded frames."""
    _add_run(parser)
    parser.add_class_arguments(chapters.Remembering)
    parser.add_argument("--seed", type=int, default=1, help="of everything")


def train_memory(options: Namespace) -> None:
    """Train the memory."""
    from agents import story
    from agents.run import Run

    one_voice()
    run = Run(Path(options.run))
    with run.locked():
        story.train_memory(run, _settings(chapters.Remembering, options), options.seed)
    answers.print(f"World model in {run.world_folder}", markup=False)
    answers.print(f"Next: worldmodel evolve {run.folder} --where dream", markup=False)


# evolve ---------------------------------------------------------------------------------------------------------------


def build_evolve(parser: Parser) -> None:
    """Evolve a controller on a run folder's world model, in dreams or in the real game."""
    _add_run(parser)
    parser.add_argument("--where", type=Literal["game", "dream"], default="game", help="where the controllers live")
    parser.add_argument("--env", type=str | None, default=None, help="the game (default: that of the rollouts)")
    parser.add_class_arguments(chapters.Controlling, "controller")
    parser.add_class_arguments(chapters.GameEvolving, "game")
    parser.add_class_arguments(chapters.DreamEvolving, "dream")
    parser.add_class_arguments(Common)


def evolve(options: Namespace) -> None:
    """Evolve."""
    from agents import story
    from agents.run import Run
    from rollouts.workers import check_backend

    run = Run(Path(options.run))
    check_backend(options.backend, options.workers)
    kind, nested = (
        (chapters.GameEvolving, options.game) if options.where == "game" else (chapters.DreamEvolving, options.dream)
    )
    settings: Any = _settings(kind, nested)
    controller = _settings(chapters.Controlling, options.controller)
    if options.where == "game":
        chapters.check_game(settings)
    with run.locked():
        if options.where == "dream":
            story.evolve_dream(run, settings, options.seed, controller)
        else:
            env, env_options = _game(run, options.env)
            env = chapters.FAST.get(env, env)
            common = (options.seed, options.workers, env_options, options.backend)
            story.evolve_game(run, env, settings, controller, *common)
    answers.print(f"Controller in {run.folder / ('evolve-' + options.where)}", markup=False)
    answers.print(f"Next: worldmodel evaluate {run.folder} --where {options.where}", markup=False)


# compare --------------------------------------------------------------------------------------------------------------


def build_compare(parser: Parser) -> None:
    """Compare memories on a run folder's rollouts: likelihood, calibration, dreams beside reality, ablations.

    The run needs rollouts and a trained VAE. Every variant is trained on the same episodes with the same budget; a fifth of
    the episodes is never trained on. The same command goes on where it was stopped.
    """
    _add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help="folder of the report (default: RUN/compare)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--updates", type=int, default=3_000, help="gradient steps of each training")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--length", type=int, default=32, help="steps of a sequence")
    parser.add_argument("--ablations", type=bool, default=True, help="whether to train the ablations, too")
    parser.add_argument(
        "--variants", type=list[str] | None, default=None, help="names of the variants to train (default: all)"
    )
    parser.add_argument("--targets", type=list[str], default=["mean", "sample"], help="next latents: mean, sample")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")


def compare(options: Namespace) -> None:
    """Compare."""
    import time

    from agents import comparison
    from agents.comparison_report import write_comparison
    from agents.display import bar
    from agents.run import Run

    run = Run(Path(options.run))
    known = comparison.VARIANTS | (comparison.ABLATIONS if options.ablations else {})
    names = options.variants or list(known)
    for word, allowed in (
        *((name, known) for name in names),
        *((name, comparison.TARGETS) for name in options.targets),
    ):
        if word not in allowed:
            raise ValueError(f"{word!r} is none of {'; '.join(allowed)}")
    out, began = Path(options.out or run.folder / "compare"), time.monotonic()
    with bar("compare memories", "trainings") as progress:
        comparison.compare(
            run,
            out,
            {name: known[name] for name in names},
            options.seeds,
            options.updates,
            options.batch,
            options.length,
            tuple(options.targets),
            options.workers,
            progress,
        )
    words = f"worldmodel compare {options.run} --seeds {options.seeds} --updates {options.updates}"
    words += "" if options.ablations else " --ablations false"
    words += "" if options.variants is None else f" --variants {shlex.quote(json.dumps(options.variants))}"
    page = write_comparison(out, run.store().env, words, time.monotonic() - began)
    answers.print(f"Report: {page}", markup=False)


# dream ----------------------------------------------------------------------------------------------------------------


def build_dream(parser: Parser) -> None:
    """Dream on from a real episode under its own actions, and film it beside reality.

    Writes films (MP4, and GIF of their beginning) of the dream beside the game and of several temperatures, what single
    latents stand for, and foretold against real rewards into RUN/media. With --store, dreams of the run's controller
    become a store that everything reads that reads rollouts.
    """
    _add_run(parser, agents=True)
    parser.add_argument("--episode", type=int, default=0, help="which stored episode; of an agent: the game's seed")
    parser.add_argument("--start", type=int, default=32, help="the last real frame that the dream sees")
    parser.add_argument("--steps", type=int, default=300, help="steps to dream")
    parser.add_argument("--temperature", type=float, default=1.0, help="above zero; lower is surer")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--store", type=str | None, default=None, help="instead: a folder for dreams as rollouts")
    parser.add_argument("--dreams", type=int, default=16, help="dreams in the store")
    parser.add_argument("--where", type=Literal["game", "dream"], default="game", help="whose controller dreams there")


def dream(options: Namespace) -> None:
    """Dream."""
    import envs
    import rollouts
    from agents import dream_pictures as show
    from agents import pictures
    from agents.pretrained import found
    from agents.run import Run
    from worldmodel.arguments import at_least_one, check_temperature

    at_least_one(steps=options.steps, dreams=options.dreams)
    check_temperature(options.temperature)
    place = found(options.run, options.pretrained)
    if options.store is not None:
        _dream_into(place, Path(options.store), options)
        return
    if isinstance(place, Run):
        world, store, media = place.world(), place.store(), place.folder / "media"
        if not 0 <= options.episode < len(store):
            raise ValueError(f"episode must be from 0 to {len(store) - 1}, got {options.episode}")
        whole, latents = store.episode(options.episode), store.latents(world.vae).some()
    else:
        agent = place.agent()
        world, media = agent.world, place.out / "media"
        game = envs.make(chapters.FAST.get(place.env, place.env), **place.env_options)
        whole = rollouts.play(game, agent, options.episode, max_steps=options.start + options.steps)
        game.close()
        latents = show.seen(world, whole).cpu().numpy()
    episode = whole.first(options.start + options.steps)
    name = f"dream-{options.episode}-{options.start}-t{options.temperature:g}-s{options.seed}"
    shots = show.film(world, episode, options.temperature, options.seed, options.start)
    for path in show.write_film(media, name, shots):
        answers.print(f"{path} (left: the game, middle: reconstruction, right: dream)", markup=False)
    shots = show.temperature_film(world, episode, seed=options.seed, start=options.start)
    temperatures = f"temperatures-{options.episode}-{options.start}-s{options.seed}"
    for path in show.write_film(media, temperatures, shots):
        answers.print(f"{path} (the game, and dreams at several temperatures)", markup=False)
    picture, which = show.traversals(world, latents)
    show.write_picture(media / "traversals.png", picture)
    answers.print(f"{media / 'traversals.png'} (rows: latents {', '.join(map(str, which))})", markup=False)
    if plot := show.reward_plot(world, whole):
        pictures.write_png(media / f"rewards-{options.episode}.png", plot)
        answers.print(f"{media / f'rewards-{options.episode}.png'} (foretold and real rewards)", markup=False)


def _dream_into(place: Any, folder: Path, options: Namespace) -> None:
    """Dreams of a run's controller, or of an agent's, as a store."""
    import rollouts
    from agents.pretrained import Shipped

    if isinstance(place, Shipped):
        agent, starts = place.agent(), place.starts()
        world, controller = agent.world, agent.controller
    else:
        world, controller = place.world(), place.controller(options.where)
        starts = place.store().latents(world.vae)
    dreams = rollouts.dream(
        world,
        controller,
        starts,
        options.steps,
        options.dreams,
        options.temperature,
        options.seed,
        keep=("latents", "actions", "rewards"),
    )
    store = rollouts.keep_dreams(dreams, world, folder)
    answers.print(f"{len(store)} dreams, {store.steps:,} steps in {folder}", markup=False)


# play -----------------------------------------------------------------------------------------------------------------


def build_play(parser: Parser) -> None:
    """Steer a run's dream in the browser: a local page with keys, touch and gamepad, and reality beside it.

    RUN is a run folder with a trained world model. Only this machine can reach the page, unless --host says otherwise.
    """
    _add_run(parser, agents=True)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="0.0.0.0: every machine may visit")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0: any free one")
    parser.add_argument("--visitors", type=int, default=8, help="dreams at a time")
    parser.add_argument("--browser", type=bool, default=True, help="whether to open a browser")


def play(options: Namespace) -> None:
    """Serve the page."""
    from agents.pretrained import found
    from agents.viewer import stage_of
    from worldmodel.arguments import at_least_one

    at_least_one(visitors=options.visitors)
    if not 0 <= options.port < 65_536:
        raise ValueError(f"port must be from 0 to 65535, got {options.port}")
    stage = stage_of(found(options.run, options.pretrained))
    try:
        from agents.viewer.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'worldmodel[viewer]'") from None

    def ready(url: str) -> None:
        answers.print(f"{stage.title}: {url} (Ctrl-C ends it)", markup=False)
        if options.browser:
            import webbrowser

            webbrowser.open(url)

    serve(stage, options.host, options.port, options.visitors, ready)


# export ---------------------------------------------------------------------------------------------------------------


def build_export(parser: Parser) -> None:
    """Write a run's dream as a static web page that plays on any file server, without Python.

    The folder holds the page, the world model and its controllers as ONNX, and a runtime for browsers, which npm fetches
    the first time. To look at it: python -m http.server --directory FOLDER
    """
    _add_run(parser, agents=True)
    parser.add_argument("--web", type=str, required=True, help="the folder")
    parser.add_argument("--runtime", type=str | None, default=None, help="a folder with the files of onnxruntime-web")


def export(options: Namespace) -> None:
    """Write the page."""
    from agents.pretrained import found
    from agents.viewer import stage_of
    from agents.viewer.export import about
    from agents.viewer.export import export as write

    folder = write(stage_of(found(options.run, options.pretrained)), options.web, options.runtime)
    answers.print(f"{folder} ({about(folder)})", markup=False)
    answers.print(f"Next: python -m http.server --directory {folder}", markup=False)


# evaluate -------------------------------------------------------------------------------------------------------------


def build_evaluate(parser: Parser) -> None:
    """Test a run folder's controller on whole episodes of the real game, with seeds never used in training."""
    _add_run(parser, agents=True)
    parser.add_argument("--where", type=Literal["game", "dream"], default="game", help="which controller")
    parser.add_argument("--env", type=str | None, default=None, help="the game (default: that of the rollouts)")
    parser.add_argument(
        "--env_options", type=dict[str, Any], default={}, help="of envs.make, over the stored ones, as JSON"
    )
    parser.add_class_arguments(chapters.Testing)
    parser.add_argument("--workers", type=int, default=2, help="processes that play the game")
    parser.add_argument("--backend", type=str, default="loky", help="where they are: loky, ray or ray://HOST:PORT")


def evaluate(options: Namespace) -> None:
    """Evaluate."""
    from agents.agent import Agent
    from agents.display import bar
    from agents.evaluation import evaluate as test
    from agents.evaluation import repeating
    from agents.pretrained import found
    from agents.run import Run

    place = found(options.run, options.pretrained)
    settings = _settings(chapters.Testing, options)
    words = f"{options.run}{' --pretrained' if options.pretrained else ''}"
    if isinstance(place, Run):
        agent, name = Agent(place.world(), place.controller(options.where)), options.where
        env, env_options = _game(place, options.env, official=True)
        words += f" --where {name}"
    else:
        agent, name = place.agent(), "agent"
        env, env_options = WORLDS.get(options.env, options.env) or place.env, place.env_options
    words += f" --env {options.env}" if options.env else ""
    with bar(f"test in {env}", "episodes") as progress:
        report = test(
            agent,
            env,
            settings.episodes,
            settings.seed,
            workers=options.workers,
            env_options=env_options | options.env_options,
            max_steps=settings.max_steps,
            policy_name=name,
            backend=options.backend,
            progress=progress,
        )
    report = replace(report, command=repeating(words, report, options.env_options, settings.max_steps))
    out = place.folder if isinstance(place, Run) else place.out
    label = re.sub(r"[^\w.]+", "-", json.dumps(options.env_options)).rstrip("-")
    path = out / "tests" / f"{name}-{env}-{settings.seed}-{settings.episodes}{label}.json".replace(":", "-")
    report.save(path)
    answers.print(f"{report}\n{path}", markup=False)


# doctor, inspect ------------------------------------------------------------------------------------------------------


def build_doctor(parser: Parser) -> None:
    """Say what is installed, which device there is, whether each game shows frames, and what to do where it fails."""


def doctor(options: Namespace) -> int:
    """Examine."""
    from agents.doctor import examine

    table = Table("what", "state", "to do")
    findings = examine()
    for finding in findings:
        state = Text(finding.state, style="green" if finding.good else "red")
        table.add_row(Text(finding.what), state, Text("" if finding.good else finding.cure))
    answers.print(table)
    return 0 if all(finding.good for finding in findings) else 1


def build_inspect(parser: Parser) -> None:
    """Describe a store, a world model, an agent, or a run.

    For rollouts: episodes, steps, returns, size, and a contact sheet of frames.
    """
    parser.add_argument("path", type=str, help="the folder")
    parser.add_argument(
        "--picture",
        type=str | None,
        default=None,
        help="the contact sheet, PNG (default: contact-sheet.png in the folder)",
    )


def inspect(options: Namespace) -> None:
    """Describe."""
    from agents.doctor import contact_sheet, describe

    table = Table("what", "value", show_header=False)
    for what, value in describe(Path(options.path)):
        table.add_row(Text(what), Text(value))
    answers.print(table)
    picture = Path(options.picture or Path(options.path) / "contact-sheet.png")
    if contact_sheet(Path(options.path), picture):
        answers.print(f"{picture} (a row for each episode, from its first frame to its last)", markup=False)


# shared ---------------------------------------------------------------------------------------------------------------


def _add_run(parser: Parser, agents: bool = False) -> None:
    """The folder that a command works on; some take an agent's folder or the name of a pretrained agent, too."""
    if agents:
        parser.add_argument("run", type=str, help="a run folder, an agent's folder, or a name with --pretrained")
        parser.add_argument("--pretrained", action="store_true", help="RUN names an agent that comes with the package")
    else:
        parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--config", action="config", help="a YAML file with these settings")


def _settings(kind: type, options: Namespace) -> Any:
    """Build a settings dataclass from parsed options, and check it."""
    built = kind(**{name: options[name] for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]
    chapters.check(built)
    return built


def _known(env: str, env_options: dict[str, Any]) -> None:
    """Make the environment once, so that a wrong id or option is told before anything starts."""
    import envs

    envs.make(env, **env_options).close()


def _game(run: Any, env: str | None, official: bool = False) -> tuple[str, dict[str, Any]]:
    """The environment that a run's rollouts come from (or its official one), or the one asked for; the same options."""
    store = run.store()
    options = dict(store.metadata.get("env_options") or {})
    if env:
        return WORLDS.get(env, env), options
    return chapters.OFFICIAL.get(store.env, store.env) if official else store.env, options


COMMANDS: dict[str, tuple[Callable[[Parser], None], Callable[[Namespace], int | None]]] = {
    "run": (build_run, run),
    "collect": (build_collect, collect),
    "train vae": (build_train_vae, train_vae),
    "train memory": (build_train_memory, train_memory),
    "evolve": (build_evolve, evolve),
    "compare": (build_compare, compare),
    "dream": (build_dream, dream),
    "play": (build_play, play),
    "export": (build_export, export),
    "evaluate": (build_evaluate, evaluate),
    **DENSITY_COMMANDS,
    "inspect": (build_inspect, inspect),
    "doctor": (build_doctor, doctor),
}
