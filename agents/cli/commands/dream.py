"""The command ``worldmodel dream``: videos of dreams beside real episodes, or a store of dreams."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    BETTER,
    add_preset,
    add_run,
    add_where,
    env_of,
    game_asked,
    preset_of,
    scan_argv,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import FAST
from worldmodel.agents.progress import answers, busy
from worldmodel.io.paths import folder_path


def build_dream(parser: Parser) -> None:
    """Make videos of a dream beside the real episode with the same actions.

    Writes to RUN/media: videos (MP4, and a GIF of the first seconds) of the dream beside the episode and of dreams at
    several temperatures, latent traversals, and a plot of predicted and real rewards. With --store: writes dreams of the
    run's controller to a store of rollouts instead.
    """
    add_run(parser, agents=True)
    parser.add_argument(
        "--env", type=str | None, default=None, help="Id of an agent's environment. None: that of its evaluation."
    )
    parser.add_argument(
        "--episode",
        type=int | None,
        default=None,
        help="Index of a stored episode (None: the first long one); of an agent: environment seed (None: 0).",
    )
    parser.add_argument(
        "--start_step",
        type=int | None,
        default=None,
        help="Step of the last real frame before the dream. None: 32, or the middle of a shorter episode.",
    )
    parser.add_argument("--horizon", type=int, default=300, help="Number of steps of the dream.")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="Sampling temperature, above zero. Lower is less random."
    )
    parser.add_argument("--seed", type=int, default=1, help="Random seed.")
    parser.add_argument(
        "--store", type=str | None, default=None, help="Path of a folder for a store of dreams. None: make videos."
    )
    parser.add_argument("--num_rollouts", type=int, default=16, help="Number of dreams in the store.")
    add_where(parser, f"Controller of the dreams in the store: game or dream. {BETTER}")
    add_preset(parser)


def dream_preset(parser: Parser, words: list[str]) -> None:
    """Set the defaults of horizon, num_rollouts and temperature to those of ``--preset``, if it is given."""
    positional, found = scan_argv(parser, words, {"--preset": ""})
    values = preset_of(env_of(positional), found["--preset"]).get("dream", {})
    names = ("horizon", "num_rollouts", "temperature")
    parser.set_defaults({name: values[name] for name in names if name in values})


def dream(options: Namespace) -> None:
    """Make the videos and plots, or the store of dreams."""
    from worldmodel.agents.analysis import dream_video, video
    from worldmodel.agents.pretrained import resolve_agent
    from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature

    validate_positive_int(horizon=options.horizon, num_rollouts=options.num_rollouts)
    validate_temperature(options.temperature)
    validate_seed(options.seed)
    source = resolve_agent(options.run, options.pretrained)
    if options.store is not None:
        _dream_into(source, folder_path(options.store, "store"), options)
        return
    with busy("preparing an episode"):
        world, number, whole, latents, media = _episode_of(source, options)
    start = dream_video.resolve_start_step(whole, options.start_step)
    episode = whole.first(start + options.horizon)
    name = f"dream-{number}-{start}-t{options.temperature:g}-s{options.seed}"
    with busy("dreaming"):
        paths = dream_video.write_film(
            media, name, dream_video.film(world, episode, options.temperature, options.seed, start)
        )
    for path in paths:
        answers.print(f"{path} (left: real, middle: reconstruction, right: dream)", markup=False)
    temperatures = f"temperatures-{number}-{start}-s{options.seed}"
    with busy("dreaming at several temperatures"):
        frames = dream_video.temperature_film(world, episode, seed=options.seed, start_step=start)
        paths = dream_video.write_film(media, temperatures, frames)
    for path in paths:
        answers.print(f"{path} (real, and dreams at several temperatures)", markup=False)
    with busy("traversing latents"):
        picture, dimensions = dream_video.traversals(world, latents)
    video.write_png(media / "traversals.png", picture)
    answers.print(f"{media / 'traversals.png'} (rows: latents {', '.join(map(str, dimensions))})", markup=False)
    if plot := dream_video.reward_plot(world, whole):
        video.write_png(media / f"rewards-{number}.png", plot)
        answers.print(f"{media / f'rewards-{number}.png'} (predicted and real rewards)", markup=False)


def _episode_of(source: Any, options: Namespace) -> tuple[Any, int, Any, Any, Path]:
    """Return the world model, the index of an episode, the episode, latents for the traversals, and the output folder."""
    from worldmodel import envs, rollouts
    from worldmodel.agents.analysis.dream_video import START, encode_means, long_episode
    from worldmodel.agents.runs.run_folder import Run

    if isinstance(source, Run):
        world, store, media = source.world(), source.store(), source.folder / "media"
        number = long_episode(store.lengths, options.start_step) if options.episode is None else options.episode
        if not 0 <= number < len(store):
            raise ValueError(f"episode must be from 0 to {len(store) - 1}, got {number}")
        return world, number, store.episode(number), store.latents(world.vae).posterior_means(), media
    agent = source.agent()
    world, media = agent.world, source.out / "media"
    env = game_asked(options.env, source.env, source.folder)
    game = envs.make(FAST.get(env, env), **source.env_options)
    number, start = options.episode or 0, START if options.start_step is None else options.start_step
    whole = rollouts.play(game, agent, number, max_steps=start + options.horizon)
    game.close()
    return world, number, whole, encode_means(world, whole).cpu().numpy(), media


def _dream_into(source: Any, folder: Path, options: Namespace) -> None:
    """Write dreams of a run's or an agent's controller to a store."""
    from worldmodel import rollouts
    from worldmodel.agents.pretrained import PretrainedAgent

    if isinstance(source, PretrainedAgent):
        agent, start_states = source.agent(), source.start_states()
        world, controller = agent.world, agent.controller
    else:
        world, controller = source.world(), source.controller(options.where or source.best or source.evolved)
        start_states = source.latents(world)
    sizes, keep = (options.horizon, options.num_rollouts), ("latents", "actions", "rewards")
    with busy(f"dreaming {options.num_rollouts} rollouts"):
        dreams = rollouts.dream(world, controller, start_states, *sizes, options.temperature, options.seed, keep=keep)
        store = rollouts.write_dreams(dreams, world, folder)
    answers.print(f"{len(store)} dreams, {store.steps:,} steps in {folder}", markup=False)
