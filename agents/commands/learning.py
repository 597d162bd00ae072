"""Commands of the story's first half: collect, train the VAE, train the memory."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from agents.commands.common import (
    WORLDS,
    Common,
    add_preset,
    add_run,
    check_env,
    env_of,
    env_words,
    glance,
    preset_of,
    preset_words,
    settings_of,
    slug,
)
from agents.display import answers, one_voice, say_next
from agents.parser import Parser
from agents.settings import FAST, Collecting, Remembering, Seeing
from worldmodel.paths import folder_path


def build_collect(parser: Parser) -> None:
    """Collect episodes of an environment into a run folder."""
    parser.add_argument("env", type=str, help="CarRacing, SuperMarioBros-1-1, or any Gymnasium id with pixels")
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/ENV)")
    parser.add_argument("--env_options", type=dict[str, Any], default={}, help="arguments of envs.make, as JSON")
    parser.add_argument(
        "--official", type=bool, default=False, help="play CarRacing itself; else its fast twin, of the same physics"
    )
    add_preset(parser)
    parser.add_argument("--config", action="config", help="a YAML file with these settings")
    parser.add_class_arguments(Collecting)
    parser.add_class_arguments(Common)


def collect_preset(parser: Parser, words: list[str]) -> None:
    """Presets of the environment, or the general ones, if --preset names one."""
    positional, found = glance(words, {"--preset": "", "--episodes": ""})
    values = preset_of(env_of(positional), found["--preset"])
    if values:
        parser.set_defaults({**values.get("collect", {}), "env_options": values.get("env_options", {})})
    if found["--episodes"]:  # a number of episodes that is given is the number that is collected
        parser.set_defaults({"min_steps": None})


def collect(options: Namespace) -> None:
    """Collect."""
    from agents import story
    from agents.run import Run
    from rollouts.workers import validate_backend

    settings = settings_of(Collecting, options)
    env = WORLDS.get(options.env, options.env)
    run = Run(folder_path(options.out or f"runs/{slug(env)}", "out"))
    env = env if options.official else FAST.get(env, env)
    validate_backend(options.backend, options.workers)
    check_env(env, options.env_options)
    run.check_own()
    # a wrong one is told before a folder is made
    story.named_policy(settings.policy, settings.exploration, options.env_options)
    common = (options.seed, options.workers, options.env_options, options.backend)
    with run.locked():
        store = story.collect(run, env, settings, *common)
    answers.print(f"{len(store)} episodes, {store.steps:,} steps in {run.rollouts_folder}", markup=False)
    say_next("worldmodel", "train", "vae", run.folder, *preset_words(options))


def build_train_vae(parser: Parser) -> None:
    """Train the VAE on a run folder's frames."""
    add_run(parser)
    add_preset(parser)
    parser.add_class_arguments(Seeing)
    parser.add_argument("--seed", type=int, default=1, help="of everything")


def train_vae(options: Namespace) -> None:
    """Train the eye."""
    from agents import story
    from agents.run import Run

    one_voice()
    run = Run(Path(options.run)).existing()
    with run.locked():
        story.train_vae(run, settings_of(Seeing, options), options.seed)
    answers.print(f"VAE in {run.folder / 'vae'}", markup=False)
    say_next("worldmodel", "train", "memory", run.folder, *preset_words(options))


def build_train_memory(parser: Parser) -> None:
    """Train the memory on a run folder's encoded frames."""
    add_run(parser)
    add_preset(parser)
    parser.add_class_arguments(Remembering)
    parser.add_argument("--seed", type=int, default=1, help="of everything")


def train_memory(options: Namespace) -> None:
    """Train the memory."""
    from agents import story
    from agents.run import Run

    one_voice()
    run = Run(Path(options.run)).existing()
    with run.locked():
        story.train_memory(run, settings_of(Remembering, options), options.seed)
    answers.print(f"World model in {run.world_folder}", markup=False)
    say_next("worldmodel", "evolve", run.folder, "--where", "dream", *env_words(run), *preset_words(options))
