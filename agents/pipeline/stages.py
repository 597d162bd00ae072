"""The stages of a run: collect, train the VAE, train the memory, evolve in dreams and in the environment, evaluate.

`run_pipeline` runs all of them; each command runs one. A stage calls the public API with its own part of the run's settings and
its own folder, so that the same call continues a stopped stage. Start reading at `collect`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import VAE, Memory, VectorEncoder, WorldModel, fit, rollouts, seeded
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.diagnostics import measure_card, measure_dream, measure_memory, measure_vae
from worldmodel.agents.analysis.verdicts import (
    search_verdict,
    verdict_of_dream,
    verdict_of_memory,
    verdict_of_vae,
    verdict_of_vectors,
    verdicts_of_card,
)
from worldmodel.agents.config.fields import arguments_of
from worldmodel.agents.config.schema import AUTO_EPISODES, AUTO_STEPS, MemoryConfig, RunConfig, VAEConfig, split_noise
from worldmodel.agents.config.sections import STAGE, write_sections
from worldmodel.agents.evolution.callbacks import KeepMeans
from worldmodel.agents.evolution.evolve import evolve
from worldmodel.agents.evolution.whitening import Whitening
from worldmodel.agents.pipeline.init_controller import init_controller, validate_picture, zero_controller
from worldmodel.agents.progress import bar, busy, console, generations, print_verdict
from worldmodel.agents.runs.renewal import print_new_data, print_outdated, search_settings, set_aside
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint, read_json, write_json, write_tensors
from worldmodel.io.migration import training_settings
from worldmodel.io.paths import expand
from worldmodel.messages import did_you_mean
from worldmodel.registry import build_memory, validate_fits_in_ram
from worldmodel.rollouts.policy import policies
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.policy.policies import Policy
from worldmodel.rollouts.store.datasets import Sequences
from worldmodel.start_states import EncodedEpisodes, StartStates
from worldmodel.training import distributed
from worldmodel.training.trainer import Trainer, TrainingCallback
from worldmodel.vector_encoder import Encoder

HUD_LOSS_WEIGHT = 16.0
"""Default weight of the reconstruction loss in the lowest eighth of CarRacing's frames with a HUD (`VAE`)."""
ACTION_NOISE = 0.1
"""Noise on the actions of an agent that is a behavior policy (`Agent.action_noise`)."""


def collect(run: Run, settings: RunConfig, env: str | None = None) -> rollouts.Store:
    """Collect real episodes of ``env`` (None: the settings' environment) into the run's store."""
    env, section = env or settings.rollout_env, settings.collect
    policy = make_policy(section.policy, settings.env_options)
    common: dict[str, Any] = {
        "seed": settings.seed,
        "workers": settings.executor["workers"],
        "out": run.rollouts_folder,
        "max_steps": section.max_steps,
        "env_options": settings.env_options,
    }
    episodes, min_steps = section.episodes or AUTO_EPISODES, 0 if section.episodes else AUTO_STEPS
    if not (run.rollouts_folder / "metadata.json").exists():
        plan = rollouts.estimate_collection(env, policy, episodes, **common)
        console.print(f"collect {env}: {plan}", markup=False)
        if plan.frame_source:
            console.print(f"frames: {plan.frame_source}", markup=False)
    common |= {"max_idle_steps": section.max_idle_steps} | settings.executor
    with run.stage("collect"), bar(f"collect {env}", "episodes") as progress:
        while True:
            store = rollouts.collect(env, policy, episodes, **common, progress=progress)
            if store.steps >= min_steps:
                return store
            episodes = max(len(store) + 1, math.ceil(min_steps * len(store) / max(store.steps, 1)))


def make_policy(name: str, env_options: dict[str, Any]) -> Policy:
    """Make a behavior policy from a name.

    Args:
        name: "smooth", "uniform" or the folder of an agent, which ":0.2" gives noise on its actions; with several, separated
            by commas, each episode uses one.
        env_options: Arguments of `envs.make`; an agent must have been trained with the same ``show_hud``.

    Raises:
        ValueError: The policy does not exist, or an agent was trained with another ``show_hud``.
    """
    parts: list[Policy] = []
    for word in name.split(","):
        if not word.strip():
            raise ValueError(f"policy must be names separated by commas, got an empty name in {name!r}")
        folder, noise = split_noise(word)
        if word in policies.NAMES:
            parts.append(policies.resolve_policy(word))
        elif expand(folder).is_dir():
            agent = Agent.load(folder)
            validate_picture(folder, env_options)
            parts.append(Agent(agent.world, agent.controller, ACTION_NOISE if noise is None else noise))
        else:
            known = f"{', '.join(policies.NAMES)} or the folder of an agent"
            raise ValueError(f"policy must be one of {known}, got {word!r}{did_you_mean(word, policies.NAMES)}")
    return parts[0] if len(parts) == 1 else rollouts.MixturePolicy(*parts)


def _store_of(run: Run) -> rollouts.Store:
    """Return the rollouts of a run; a line names each shard that cannot be read."""
    for reason in (store := run.store()).damaged.values():
        console.print(f"a damaged shard is left out: {reason}", markup=False)
    return store


def train_vae(
    run: Run,
    settings: RunConfig,
    seed: int | None = None,
    into: Run | None = None,
    before: Encoder | None = None,
) -> Encoder:
    """Train the VAE on the run's frames, and measure it on held-out frames; vectors are standardized instead.

    Args:
        run: The run with the rollouts.
        settings: Settings of the run; its seed splits the frames into training and validation.
        seed: Random seed of the training. None: that of the run.
        into: Run whose folder gets the VAE. None: ``run``.
        before: VAE whose training continues. None: a new one.
    """
    store, section, split_seed = _store_of(run), settings.vae, None if seed is None else settings.seed
    if len(store.observation_shape) == 1:
        return _standardize(run, store, into or run)
    seed = settings.seed if seed is None else seed
    with seeded(seed):
        hud_loss_weight = HUD_LOSS_WEIGHT if store.metadata["env_options"].get("show_hud") else 1.0
        vae = (
            before
            if isinstance(before, VAE)
            else VAE(
                section.latent_dim,
                hud_loss_weight=hud_loss_weight,
                standardize=_standardizes(into or run),
                observation_shape=store.observation_shape,
            )
        )
    out, frames = (into or run).folder / "vae", store.frames()
    if into is None:
        print_new_data(out, frames, section.num_updates)
    with run.stage("train vae"), bar("train vae", "updates") as progress:
        fit(
            vae,
            frames,
            **_training(settings, section),
            seed=seed,
            split_seed=split_seed,
            out=out,
            warm_start=before is not None,
            allow_new_data=into is None,
            callbacks=[_SaveSettings(settings, "vae", "training")],
            progress=progress,
        )
    if distributed.is_main_process():
        with run.stage("diagnose"), busy("reconstructing held-out frames"):
            metrics = measure_vae(run, vae, settings.seed)
        print_verdict(verdict_of_vae(metrics))
    return vae


def _standardize(run: Run, store: rollouts.Store, into: Run) -> VectorEncoder:
    """Write the encoder of a run's vectors: their means and standard deviations."""
    with run.stage("train vae"), busy("standardizing vectors"):
        encoder = VectorEncoder.for_store(store)
    write_tensors(into.folder / "vae" / "weights.safetensors", encoder.state_dict())
    write_json(into.folder / "vae" / "settings.json", {"model_config": encoder.config})
    print_verdict(verdict_of_vectors(encoder, store.steps))
    return encoder


def _training(settings: RunConfig, section: VAEConfig | MemoryConfig) -> dict[str, Any]:
    """Return arguments of `fit`; a training stops after a fifth of its validations, at least 20, without a lower loss."""
    rate = settings.training.learning_rates[isinstance(section, MemoryConfig)]
    patience = max(20, section.num_updates // 500)
    return arguments_of(fit, section) | {"learning_rate": rate, "patience": patience}


class _SaveSettings(TrainingCallback):
    """Write the settings of a stage beside its training, once `fit` has accepted them: its next call has them as defaults."""

    def __init__(self, settings: RunConfig, *names: str) -> None:
        self.settings, self.names = settings, names

    def on_start(self, trainer: Trainer) -> None:
        if trainer.is_main and trainer.folder is not None:
            write_sections(self.settings, self.names, trainer.folder / STAGE)


def _standardizes(run: Run) -> bool:
    """Return whether a run's VAE standardizes frames; trainings of older versions continue without."""
    path = run.folder / "vae" / "settings.json"
    return not path.exists() or bool(training_settings(read_json(path))["model_config"].get("standardize"))


def train_memory(
    run: Run,
    settings: RunConfig,
    seed: int | None = None,
    into: Run | None = None,
    vae: Encoder | None = None,
    before: Memory | None = None,
    weights: Callable[[list[int]], np.ndarray | None] | None = None,
) -> WorldModel:
    """Encode every frame once, train the memory on the latents, and save the world model.

    Args:
        run: The run with the rollouts.
        settings: Settings of the run; its seed splits the episodes into training and validation.
        seed: Random seed of the training. None: that of the run.
        into: Run whose folder gets the memory and the world model. None: ``run``.
        vae: VAE that encodes the frames. None: the run's.
        before: Memory whose training continues. None: a new one.
        weights: Function from the lengths of episodes to their weights, as `rollouts.Store.sequences` takes them.
    """
    section, split_seed = settings.memory, None if seed is None else settings.seed
    seed = settings.seed if seed is None else seed
    store, vae, own, into = _store_of(run), vae or run.vae(), into is None, into or run
    density = section.density | {"input_size": vae.latent_dim + store.action_dim, "output_size": vae.latent_dim}
    with torch.device("meta"):  # reports a memory that is too large before the frames are encoded
        validate_fits_in_ram(build_memory(density))
    with seeded(seed):
        memory = before or build_memory(density)
    with run.stage("encode"), bar("encode frames", "frames") as progress:
        latents = store.latents(vae, progress, section.stall_delay)
    weighted = None if weights is None else weights(latents.lengths)
    targets = "sample" if isinstance(vae, VAE) else "mean"  # the posterior of vectors has no variance
    sequences = Sequences(
        latents, section.seq_len, targets, weights=weighted, pad_episode_ends=section.pad_episode_ends
    )
    if own:
        print_new_data(into.folder / "memory", sequences, section.num_updates)
    with run.stage("train memory"), bar("train memory", "updates") as progress:
        fit(
            memory,
            sequences,
            **_training(settings, section),
            seed=seed,
            split_seed=split_seed,
            out=into.folder / "memory",
            warm_start=before is not None,
            allow_new_data=own,
            callbacks=[_SaveSettings(settings, "memory", "training")],
            progress=progress,
        )
        world = WorldModel(vae, memory, store)
        if distributed.is_main_process():
            # before the world model, whose last file marks the folder as complete
            StartStates.from_episodes(latents, seed=seed).save(into.world_folder)
            world.save(into.world_folder)
    if distributed.is_main_process():
        with run.stage("diagnose"), busy("predicting held-out episodes"):
            metrics = measure_memory(into, memory, sequences, settings.seed)
            card = measure_card(run) if own else None
        for verdict in (verdict_of_memory(metrics), *(verdicts_of_card(card) if card else ())):
            print_verdict(verdict)
    return world


def evolve_dream(
    run: Run,
    settings: RunConfig,
    seed: int | None = None,
    into: Run | None = None,
    world: WorldModel | None = None,
    start_states: EncodedEpisodes | None = None,
    initial_controller: Controller | None = None,
    **options: Any,
) -> Controller:
    """Evolve a controller in dreams.

    Args:
        run: The run.
        settings: Settings of the run.
        seed: Random seed. None: that of the run.
        into: Run whose folder gets the controller. None: ``run``.
        world: World model. None: the run's.
        start_states: Encoded episodes that dreams start from. None: the run's.
        initial_controller: Initial controller. None: zeros.
        options: More arguments of `rollouts.DreamFitness`.

    Raises:
        ValueError: The evolution would replace the controller of the best iteration.
    """
    world, into, section = world or run.world(), into or run, settings.dream
    if into is run and (run.folder / "iterations" / "summary.json").exists() and not _searched(run):
        raise ValueError(
            f"{run.search('dream')} has the controller of the best iteration, which another evolution would replace: "
            "use a copy of the run folder without iterations"
        )
    start_states = run.latents(world) if start_states is None else start_states
    initial_controller = initial_controller or zero_controller(world, settings.controller)
    options |= arguments_of(rollouts.DreamFitness, section) | {"controller": initial_controller}
    fitness = rollouts.DreamFitness(world, start_states, **options)
    if into is run:
        print_outdated(run)
        set_aside(run, "dream", fitness.identity)
    folder = into.search("dream")
    before = search_settings(folder).get("fitness", {})  # a search of an older version goes on as it began
    fitness.settings["use_expected_continuation"] = before.get("use_expected_continuation", True)
    whitening = _whitening(folder, world, start_states, initial_controller) if settings.search.whiten else None
    with run.stage("evolve in dreams"), generations("evolve in dreams") as shown:
        evolved = evolve(
            initial_controller,
            fitness,
            seed=settings.seed if seed is None else seed,
            **arguments_of(evolve, settings.search, section),
            whitening=whitening,
            out=folder,
            progress=shown.progress,
            on_generation=shown.on_generation,
            callbacks=[KeepMeans(section.generations)] if into is run else (),
        )
    _print_search(into, "dream")
    return evolved


def compare_dream(run: Run, settings: RunConfig) -> None:
    """Measure and print the model-exploitation gap of the controller evolved in dreams: dreamed minus real return."""
    common: dict[str, Any] = {"seed": settings.seed} | settings.executor
    with run.stage("diagnose"), bar("play the controller evolved in dreams", "episodes") as progress:
        sizes = (settings.dream.horizon, settings.dream.temperature)
        metrics = measure_dream(
            run,
            run.controller("dream"),
            settings.rollout_env,
            settings.env_options,
            *sizes,
            progress=progress,
            **common,
        )
    print_verdict(verdict_of_dream(metrics))


def _searched(run: Run) -> bool:
    """Return whether the run's dream controller, if any, comes from `evolve_dream` and not from an iteration."""
    folder = run.search("dream")
    return (folder / "state.npz").exists() or not (folder / "controller.safetensors").exists()


def evolve_game(run: Run, settings: RunConfig) -> Controller:
    """Evolve a controller in the real environment."""
    world, section, env = run.world(), settings.game, settings.rollout_env
    print_outdated(run)
    set_aside(run, "game", {"world": fingerprint(world)})
    initial_controller = init_controller(run, world, settings.controller, section.init_from)
    set_aside(run, "game", {}, initial_controller if section.init_from == "dream" else None)
    folder, whitening = run.search("game"), None
    if settings.search.whiten:
        whitening = _whitening(folder, world, run.store().latents(world.vae), initial_controller)
    with run.stage("evolve in the game"), generations("evolve in the game") as shown:
        common: dict[str, Any] = {
            "env_options": settings.env_options,
            "progress": shown.episodes,
            "controller": initial_controller,
        }
        common |= settings.executor | arguments_of(rollouts.EnvFitness, section)
        evaluated = common | {"episodes": section.eval_episodes, "max_idle_steps": None}
        fitness: Any = rollouts.EnvFitness(env, world, **common)
        if section.state_resets:
            fitness = rollouts.StateResets(fitness, *section.state_resets)
        if section.hard_episode_candidates:
            fitness = rollouts.HardEpisodes(fitness, section.hard_episode_candidates)
        evolved = evolve(
            initial_controller,
            fitness,
            eval_fitness=rollouts.EnvFitness(env, world, **evaluated),
            seed=settings.seed,
            **arguments_of(evolve, settings.search, section),
            normalize_episodes=bool(section.state_resets),
            whitening=whitening,
            out=folder,
            progress=shown.progress,
            on_generation=shown.on_generation,
            callbacks=[KeepMeans(section.generations)],
        )
    _print_search(run, "game")
    return evolved


def _print_search(run: Run, where: str) -> None:
    """Print the verdict on an evolution that could not compare its members."""
    if (verdict := search_verdict(run.search(where).parent, where)) is not None:
        print_verdict(verdict)


def _whitening(folder: Path, world: WorldModel, episodes: EncodedEpisodes, controller: Controller) -> Whitening:
    return Whitening.load_or_fit(folder / "coordinates.safetensors", world, episodes, controller)
