"""Commands that show dreams: as films, as rollouts, as a page to play on."""

import errno
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from agents.commands.common import add_preset, add_run, add_where, env_of, game_asked, glance, preset_of
from agents.display import answers, busy, say_next
from agents.parser import Parser
from agents.settings import FAST
from worldmodel.paths import folder_path


def build_dream(parser: Parser) -> None:
    """Dream on from a real episode under its own actions, and film it beside reality.

    Writes films (MP4, and GIF of their beginning) of the dream beside the game and of several temperatures, what single
    latents stand for, and predicted against real rewards into RUN/media. With --store, dreams of the run's controller
    become a store that everything reads that reads rollouts.
    """
    add_run(parser, agents=True)
    parser.add_argument("--env", type=str | None, default=None, help="the game of an agent (default: that of its test)")
    parser.add_argument(
        "--episode",
        type=int | None,
        default=None,
        help="which stored episode (default: the first long one); of an agent: the game's seed (default: 0)",
    )
    parser.add_argument(
        "--start",
        type=int | None,
        default=None,
        help="last real frame that the dream sees (default: 32, or the middle of a shorter episode)",
    )
    parser.add_argument("--steps", type=int, default=300, help="steps to dream")
    parser.add_argument("--temperature", type=float, default=1.0, help="above zero; lower is surer")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--store", type=str | None, default=None, help="instead: a folder for dreams as rollouts")
    parser.add_argument("--dreams", type=int, default=16, help="dreams in the store")
    add_where(parser, "whose controller dreams there: game or dream")
    add_preset(parser)


def dream_preset(parser: Parser, words: list[str]) -> None:
    """The preset's number, length and temperature of dreams, if --preset names one."""
    positional, found = glance(words, {"--preset": ""})
    values = preset_of(env_of(positional), found["--preset"]).get("dream", {})
    names = {"horizon": "steps", "dreams": "dreams", "temperature": "temperature"}
    parser.set_defaults({option: values[name] for name, option in names.items() if name in values})


def dream(options: Namespace) -> None:
    """Dream."""
    from agents import dream_pictures as show
    from agents import pictures
    from agents.pretrained import found
    from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature

    validate_positive_int(steps=options.steps, dreams=options.dreams)
    validate_temperature(options.temperature)
    validate_seed(options.seed)
    place = found(options.run, options.pretrained)
    if options.store is not None:
        _dream_into(place, folder_path(options.store, "store"), options)
        return
    with busy("an episode to dream along"):
        world, number, whole, latents, media = _episode_of(place, options)
    start = show.start_step(whole, options.start)
    episode = whole.first(start + options.steps)
    name = f"dream-{number}-{start}-t{options.temperature:g}-s{options.seed}"
    with busy("dreaming it on"):
        films = show.write_film(media, name, show.film(world, episode, options.temperature, options.seed, start))
    for path in films:
        answers.print(f"{path} (left: the game, middle: reconstruction, right: dream)", markup=False)
    temperatures = f"temperatures-{number}-{start}-s{options.seed}"
    with busy("dreaming at several temperatures"):
        shots = show.temperature_film(world, episode, seed=options.seed, start=start)
        films = show.write_film(media, temperatures, shots)
    for path in films:
        answers.print(f"{path} (the game, and dreams at several temperatures)", markup=False)
    with busy("what latents stand for"):
        picture, which = show.traversals(world, latents)
    pictures.write_png(media / "traversals.png", picture)
    answers.print(f"{media / 'traversals.png'} (rows: latents {', '.join(map(str, which))})", markup=False)
    if plot := show.reward_plot(world, whole):
        pictures.write_png(media / f"rewards-{number}.png", plot)
        answers.print(f"{media / f'rewards-{number}.png'} (predicted and real rewards)", markup=False)


def _episode_of(place: Any, options: Namespace) -> tuple[Any, int, Any, Any, Path]:
    """What to dream along: the world model, an episode with its number, latents to turn, and where pictures go."""
    import envs
    import rollouts
    from agents.dream_pictures import START, long_episode, seen
    from agents.run import Run

    if isinstance(place, Run):
        world, store, media = place.world(), place.store(), place.folder / "media"
        number = long_episode(store.lengths, options.start) if options.episode is None else options.episode
        if not 0 <= number < len(store):
            raise ValueError(f"episode must be from 0 to {len(store) - 1}, got {number}")
        return world, number, store.episode(number), store.latents(world.vae).posterior_means(), media
    agent = place.agent()
    world, media = agent.world, place.out / "media"
    env = game_asked(options.env, place.env, place.folder)
    game = envs.make(FAST.get(env, env), **place.env_options)
    number, start = options.episode or 0, START if options.start is None else options.start
    whole = rollouts.play(game, agent, number, max_steps=start + options.steps)
    game.close()
    return world, number, whole, seen(world, whole).cpu().numpy(), media


def _dream_into(place: Any, folder: Path, options: Namespace) -> None:
    """Dreams of a run's controller, or of an agent's, as a store."""
    import rollouts
    from agents.pretrained import Shipped

    if isinstance(place, Shipped):
        agent, starts = place.agent(), place.starts()
        world, controller = agent.world, agent.controller
    else:
        world, controller = place.world(), place.controller(options.where or place.evolved)
        starts = place.latents(world)
    sizes, keep = (options.steps, options.dreams), ("latents", "actions", "rewards")
    with busy(f"{options.dreams} dreams"):
        dreams = rollouts.dream(world, controller, starts, *sizes, options.temperature, options.seed, keep=keep)
        store = rollouts.write_dreams(dreams, world, folder)
    answers.print(f"{len(store)} dreams, {store.steps:,} steps in {folder}", markup=False)


def build_play(parser: Parser) -> None:
    """Steer a run's dream in the browser: a local page with keys, touch and gamepad, and reality beside it.

    RUN is a run folder with a trained world model. Only this machine can reach the page, unless --host says otherwise.
    """
    add_run(parser, agents=True)
    parser.add_argument("--env", type=str | None, default=None, help="the game beside the dream (default: of RUN)")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="0.0.0.0: every machine may visit")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0: any free one")
    parser.add_argument("--visitors", type=int, default=8, help="dreams at a time")
    parser.add_argument("--browser", type=bool, default=True, help="whether to open a browser")


def play(options: Namespace) -> None:
    """Serve the page."""
    from agents.pretrained import found
    from agents.viewer import serve

    try:
        page = serve(
            found(options.run, options.pretrained), options.env,
            host=options.host, port=options.port, visitors=options.visitors,
        )  # fmt: skip
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(f"port {options.port} is taken by another program: choose another, or --port 0") from None
    name = Path(options.run).name if options.pretrained else options.run
    with page:
        answers.print(f"{name} ({page.title}): {page.url} (Ctrl-C ends it)", markup=False)
        if options.browser:
            import webbrowser

            webbrowser.open(page.url)
        with suppress(KeyboardInterrupt):
            page.wait()


def build_export(parser: Parser) -> None:
    """Write a run's dream as a static web page that plays on any file server, without Python.

    The folder holds the page, the world model and its controllers as ONNX, and a runtime for browsers, which npm fetches
    the first time. To look at it: python -m http.server --directory FOLDER
    """
    add_run(parser, agents=True)
    parser.add_argument("--web", type=str, required=True, help="the folder")
    parser.add_argument("--runtime", type=str | None, default=None, help="a folder with the files of onnxruntime-web")


def export(options: Namespace) -> None:
    """Write the page."""
    from agents.pretrained import found
    from agents.viewer import stage_of
    from agents.viewer.export import about
    from agents.viewer.export import export as write

    with busy(f"writing {options.web}"):
        folder = write(stage_of(found(options.run, options.pretrained)), options.web, options.runtime)
    answers.print(f"{folder} ({about(folder)})", markup=False)
    say_next("python", "-m", "http.server", "--directory", folder)
