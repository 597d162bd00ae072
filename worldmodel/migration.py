"""Names that older versions wrote into files, and their names of today."""

import json
from collections.abc import Mapping
from typing import Any


def renamed(old: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same content under the names of today; names that are not in ``names`` stay."""
    return {names.get(name, name): value for name, value in old.items()}


VAE_SETTINGS = {"latent": "latent_dim", "emphasis": "hud_loss_weight"}
"""Arguments of `worldmodel.VAE`, in ``config.json`` of a world model and ``settings.json`` of a training."""

MEMORY_SETTINGS = {
    "inputs": "input_size",
    "outputs": "output_size",
    "hidden": "hidden_size",
    "mixtures": "num_components",
    "layers": "num_layers",
    "couplings": "num_couplings",
}
"""Arguments of `worldmodel.Memory` and its density, in the same files."""

SEQUENCE_DENSITY_SETTINGS = MEMORY_SETTINGS | {"event": "event_dim", "latent": "latent_dim", "truncate": "bptt_length"}
"""Arguments of `worldmodel.SequenceDensity` and `worldmodel.baselines.VRNN`, in ``settings.json`` of a training."""

TRAINING_SETTINGS = {
    "model_settings": "model_config",
    "updates": "num_updates",
    "batch": "batch_size",
    "lr": "learning_rate",
    "held_out": "val_fraction",
    "check_every": "eval_every",
    "precision": "dtype",
}
"""Arguments of `worldmodel.fit`, in ``settings.json`` and ``resume.pt`` of a training."""

CORPUS_OPTIONS = {"piece": "segment_length", "sa": "include_sa"}
"""Options of `worldmodel.corpora.open_corpus`."""


def training_settings(old: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, with its model's, under the names of today."""
    settings = renamed(old, TRAINING_SETTINGS)
    if isinstance(model := settings.get("model_config"), Mapping):
        settings["model_config"] = renamed(model, VAE_SETTINGS | SEQUENCE_DENSITY_SETTINGS)
    return settings


# Options of environments: metadata.json of rollouts, config.yaml of runs, reports, and the identity of a search -----------

CAR_RACING_OPTIONS = {"indicators": "show_hud"}
MARIO_OPTIONS = {"buttons": "action_set", "noops": "noop_max", "sticky": "sticky_action_prob", "machine": "backend"}


def _env_option_names(env: object) -> dict[str, str]:
    """Return the option names that changed for an environment id. Options of other environments are not ours."""
    if not isinstance(env, str):
        return {}
    return MARIO_OPTIONS if "SuperMarioBros" in env else CAR_RACING_OPTIONS if "CarRacing" in env else {}


def renamed_env_options(env: object, options: Any) -> Any:
    """Return options of `envs.make` under the names of this version. What is no dictionary is returned as it is.

    Example:
        >>> renamed_env_options("SuperMarioBros-1-1", {"buttons": "run", "machine": "fast"})
        {'action_set': 'run', 'backend': 'numba'}
    """
    if not isinstance(options, Mapping) or not (names := _env_option_names(env)):
        return options
    found = renamed(options, names)
    if options.get("machine") == "fast":
        found["backend"] = "numba"
    return found


def stored_env_options(env: object, options: Any) -> Any:
    """Return options under their former names, which the identities of stores and searches keep, so that these resume.

    Example:
        >>> stored_env_options("SuperMarioBros-1-1", {"action_set": "run", "backend": "numba"})
        {'buttons': 'run', 'machine': 'fast'}
    """
    if not isinstance(options, Mapping) or not (names := _env_option_names(env)):
        return options
    found = renamed(options, {new: old for old, new in names.items()})
    if options.get("backend") == "numba":
        found["machine"] = "fast"
    return found


def renamed_run_options(content: Any) -> Any:
    """Return a run's config, nested or flat, with renamed options of its environments. Anything else is returned as it is."""
    if not isinstance(content, Mapping):
        return content
    parts = {name: renamed_env_options(content.get("env"), content[name])
             for name in ("env_options", "test_options", "eval_env_options") if name in content}  # fmt: skip
    return {**content, **parts} if parts else content


def renamed_env_spec(text: Any) -> Any:
    """Return the JSON of an environment's specification, as Minari keeps it, with this version's module and options."""
    if not isinstance(text, str) or "envs.making:make" not in text:
        return text
    spec = json.loads(text)
    kwargs = spec.get("kwargs")
    if isinstance(kwargs, dict):
        spec["kwargs"] = renamed_env_options(kwargs.get("id"), kwargs)
    return json.dumps(spec | {"entry_point": "envs.registration:make"})


STORE_METADATA = {
    "actions": "action_dim",
    "block": "episodes_per_shard",
    "further": "policy_changes",
    "patience": "max_idle_steps",
}
"""Keys of a rollout store's ``metadata.json``."""


def renamed_metadata(content: Any) -> Any:
    """A store's metadata under the names of today; what is no dictionary is returned as it is."""
    return renamed(content, STORE_METADATA) if isinstance(content, dict) else content


FITNESS_IDENTITY = {
    "caution": "disagreement_penalty",
    "dreams": "num_rollouts",
    "hazard_ratio": "termination_hazard_ratio",
    "lanes": "envs_per_worker",
    "moments": "num_state_resets",
    "patience": "max_idle_steps",
    "scouted": "hard_episode_candidates",
    "starts": "start_states",
    "stretch": "reset_horizon",
    "threshold": "termination_threshold",
    "weigh_ends": "use_expected_continuation",
    "worlds": "ensemble",
}
"""Arguments of `rollouts.DreamFitness` and `rollouts.EnvFitness`, in the state of an evolution."""


def original(new: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same content under the names of older versions, for identities that are compared with those in their files."""
    return renamed(new, {now: before for before, now in names.items()})
