"""Convert files of older versions: former names, and settings that were removed.

Start reading at `renamed` and `without_removed`.
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any


def renamed(old: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the content with keys renamed by ``names``; other keys are unchanged."""
    return {names.get(name, name): value for name, value in old.items()}


class RemovedSetting(ValueError):
    """An older file has a removed setting with another value than its default."""


def without_removed(old: Mapping[str, Any], removed: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return the content without removed settings, which must have their former defaults.

    Args:
        old: Content under the current names.
        removed: Removed settings and their former defaults.
        section: Name of the section in the message.

    Raises:
        RemovedSetting: A removed setting has another value; the message names it, its default and the value.

    Example:
        >>> without_removed({"rank": 2, "cell": "lstm"}, REMOVED_NETWORK_SETTINGS)
        {'rank': 2}
    """
    for name, default in removed.items():
        if old.get(name, default) != default:
            label = f"{section}.{name}" if section else name
            raise RemovedSetting(f"{label} was removed and must be {default!r}, got {old[name]!r}")
    return {name: value for name, value in old.items() if name not in removed}


VAE_SETTINGS = {"latent": "latent_dim", "emphasis": "hud_loss_weight"}
"""Arguments of `worldmodel.VAE`, in ``config.json`` of a world model and ``settings.json`` of a training."""

NETWORK_SETTINGS = {
    "hidden": "hidden_size",
    "mixtures": "num_components",
    "layers": "num_layers",
    "couplings": "num_couplings",
}
"""Sizes of a density, in settings of memories, of runs, of densities and of comparisons."""

MEMORY_SETTINGS = NETWORK_SETTINGS | {"inputs": "input_size", "outputs": "output_size"}
"""Arguments of `worldmodel.Memory` and its density, in the same files."""

REMOVED_NETWORK_SETTINGS = {"cell": "lstm", "shared": False}
"""Removed arguments of `worldmodel.RMDN` and `worldmodel.FRMDN`, in settings of memories, of runs and of densities."""

SEQUENCE_DENSITY_SETTINGS = MEMORY_SETTINGS | {"event": "event_dim", "latent": "latent_dim", "truncate": "bptt_length"}
"""Arguments of `worldmodel.SequenceDensity` and `worldmodel.baselines.VRNN`, in ``settings.json`` of a training."""

SCHEDULE_SETTINGS = {"updates": "num_updates", "batch": "batch_size", "lr": "learning_rate", "precision": "dtype"}
"""Settings of a training, in settings of trainings, of runs and of densities."""

TRAINING_SETTINGS = SCHEDULE_SETTINGS | {
    "model_settings": "model_config",
    "held_out": "val_fraction",
    "check_every": "eval_every",
}
"""Arguments of `worldmodel.fit`, in ``settings.json`` and ``resume.pt`` of a training."""

CORPUS = {"event": "event_dim"}
"""Keys of the ``corpus.json`` of a density."""
SCALE = {"piece": "segment_length"}
"""Keys of the constants of speech in the same file."""


def corpus(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``corpus.json`` of a density, or a part of it, under the current names."""
    new = renamed(old, CORPUS)
    return new | {"scale": renamed(new["scale"], SCALE)} if isinstance(new.get("scale"), Mapping) else new


def world_model(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``config.json`` of a world model under the current names."""
    memory = without_removed(renamed(old["memory"], MEMORY_SETTINGS), REMOVED_NETWORK_SETTINGS, "memory")
    return {**old, "vae": renamed(old["vae"], VAE_SETTINGS), "memory": memory}


STORE = r"(?P<count>\d+) episodes, (?P<steps>\d+) steps of (?P<env>.+) \((?P<digest>[0-9a-f]{16})\)"
DATA = re.compile(
    rf"(?:\d+ \((?P<episodes>\w+)\) of )?{STORE}(?:, weighted (?P<weights>\w+))?(?:, encoded by (?P<vae>\w+))?"
    r"(?:, ended with their last rewards \(patience (?P<stall>\d+)\))?"
    r"(?:, (?P<pad>overhanging )?windows of (?P<seq_len>\d+)(?: frames|, (?P<targets>\w+) targets))?"
)
START_STATES = re.compile(
    r"(?P<recent>\d+) of the first (?P<episodes>\d+) episodes of (?P<env>.+), up to their last rewards, "
    r"(?P<initial>\d+) beginnings, encoded by (?P<vae>\w+)"
)
"""Identities of data and of start states in files of older versions, which were sentences."""


def data_identity(old: Any) -> Any:
    """Return the identity of rollouts, frames, sequences or start states as a dict; others are unchanged.

    Example:
        >>> data_identity("2 of the first 9 episodes of X, up to their last rewards, 1 beginnings, encoded by 5a")
        {'env': 'X', 'episodes': 9, 'recent': 2, 'initial': 1, 'vae': '5a'}
    """
    if not isinstance(old, str):
        return old
    if match := START_STATES.fullmatch(old):
        numbers = {name: int(match[name]) for name in ("episodes", "recent", "initial")}
        return {"env": match["env"], **numbers, "vae": match["vae"]}
    if not (match := DATA.fullmatch(old)):
        return old
    new: dict[str, Any] = {"episodes": match["episodes"]} if match["episodes"] else {}
    steps = {"episodes": int(match["count"]), "steps": int(match["steps"])}
    new["store"] = {"env": match["env"], **steps, "digest": match["digest"]}
    if match["vae"]:
        new |= {"vae": match["vae"], "terminate_on_stall": int(match["stall"]) if match["stall"] else None}
    if match["seq_len"]:
        new["seq_len"] = int(match["seq_len"])
    if match["targets"]:
        new |= {"weights": match["weights"], "pad_episode_ends": bool(match["pad"]), "latent_targets": match["targets"]}
    return new


def training_settings(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training and of its model under their current names."""
    settings = renamed(old, TRAINING_SETTINGS)
    if "data" in settings:
        settings["data"] = data_identity(settings["data"])
    if isinstance(model := settings.get("model_config"), Mapping):
        model = renamed(model, VAE_SETTINGS | SEQUENCE_DENSITY_SETTINGS)
        settings["model_config"] = without_removed(model, REMOVED_NETWORK_SETTINGS, "model_config")
    return settings


# Options of environments: metadata.json of rollouts, config.yaml of runs, reports, and the identity of a search

CAR_RACING_OPTIONS = {"indicators": "show_hud"}
MARIO_OPTIONS = {"buttons": "action_set", "noops": "noop_max", "sticky": "sticky_action_prob", "machine": "backend"}
PREFIX = "((worldmodel[.])?envs:(worldmodel/)?)?"
CAR_RACING_ID = re.compile(rf"{PREFIX}(CarRacing|CarRacing-v3|FastCarRacing)(-v3)?")
MARIO_ID = re.compile(rf"{PREFIX}SuperMarioBros-([1-8]-[1-4]|v0)")
"""Patterns of the ids of this package's environments."""


def _env_option_names(env: object) -> dict[str, str]:
    """Return the option names that changed for an environment id. Options of other environments do not change."""
    if not isinstance(env, str):
        return {}
    return MARIO_OPTIONS if MARIO_ID.fullmatch(env) else CAR_RACING_OPTIONS if CAR_RACING_ID.fullmatch(env) else {}


def renamed_env_options(env: object, options: Any) -> Any:
    """Return options of `envs.make` under the names of this version. Anything else than a dictionary is unchanged.

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
    """Return options under their former names. The identity of a store has these, so that it stays.

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


EVALUATION_FLAGS = {"--episodes": "--eval.episodes", "--seed": "--eval.seed", "--max_steps": "--eval.max_steps"}
"""Flags of ``worldmodel evaluate``."""


def renamed_evaluation(env: object, command: str) -> str:
    """Return the command of a report under the current names. Another command, and a damaged one, is unchanged.

    Args:
        env: Id of the report's environment.
        command: Shell command that repeats the evaluation.

    Example:
        >>> renamed_evaluation("CarRacing", "worldmodel evaluate runs/car --episodes 2 --seed 10000")
        'worldmodel evaluate runs/car --eval.episodes 2 --eval.seed 10000'
    """
    try:
        words = shlex.split(command)
        if words[:2] != ["worldmodel", "evaluate"]:
            return command
        for number, word in enumerate(words):
            if word in EVALUATION_FLAGS:
                words[number] = EVALUATION_FLAGS[word]
            elif words[number - 1] == "--env_options":
                options = json.loads(word)
                if (new := renamed_env_options(env, options)) != options:
                    words[number] = json.dumps(new)
    except ValueError:
        return command
    return shlex.join(words)


ENV_ENTRY_POINTS = ("envs.making:make", "envs.registration:make")
"""Former functions that make an environment from a specification."""


def renamed_env_spec(text: Any) -> Any:
    """Return the JSON of an environment's specification, as Minari keeps it, with this version's module and options."""
    if not isinstance(text, str) or not any(f'"{made_by}"' in text for made_by in ENV_ENTRY_POINTS):
        return text
    spec = json.loads(text)
    kwargs = spec.get("kwargs")
    if isinstance(kwargs, dict):
        spec["kwargs"] = renamed_env_options(kwargs.get("id"), kwargs)
    return json.dumps(spec | {"entry_point": "worldmodel.envs.registration:make"})


STORE_METADATA = {
    "actions": "action_dim",
    "block": "episodes_per_shard",
    "further": "policy_changes",
    "patience": "max_idle_steps",
}
"""Keys of a rollout store's ``metadata.json``."""


def renamed_metadata(content: Any) -> Any:
    """Return a store's metadata under the current names. Anything else than a dictionary is unchanged."""
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


ADDED_DREAM_ARGUMENTS: dict[str, Any] = {"use_expected_continuation": False, "termination_hazard_ratio": 1.0}
"""Values of arguments that an older fitness in dreams does not have."""
REMOVED_DREAM_ARGUMENTS: dict[str, Any] = {"termination_threshold": None, "disagreement_penalty": 0.0}
"""Removed arguments of `rollouts.dream` and `rollouts.DreamFitness`, in the identity of the latter."""


def fitness_identity(content: Any) -> Any:
    """Return the identity of a fitness under the current names and without removed arguments; others are unchanged.

    Example:
        >>> sorted(fitness_identity({"dreams": 16, "world": "5a", "starts": "7b"}))
        ['num_rollouts', 'start_states', 'termination_hazard_ratio', 'use_expected_continuation', 'world']
    """
    if not isinstance(content, dict):
        return content
    older = {"dreams", "world", "starts"} <= content.keys() or {"env", "patience", "lanes"} <= content.keys()
    new = renamed(content, FITNESS_IDENTITY) if older else dict(content)
    if older and "env_options" in new:
        new["env_options"] = renamed_env_options(new.get("env"), new["env_options"])
    if {"env", "max_idle_steps"} <= new.keys():
        new.pop("envs_per_worker", None)
    if {"num_rollouts", "world", "start_states"} <= new.keys():
        new["start_states"] = data_identity(new["start_states"])
        new = ADDED_DREAM_ARGUMENTS | without_removed(new, REMOVED_DREAM_ARGUMENTS)
    return new


def original(new: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the content under the names of older versions, to compare identities with those in older files."""
    return renamed(new, {now: before for before, now in names.items()})


# Names in the files of agents: settings of runs, states of searches, metrics, comparisons

RUN_CONFIG: dict[str, Any] = {"test": "eval", "test_options": "eval_env_options"}
"""Sections and top-level settings in a run's ``config.yaml``."""
RUN_SECTIONS: dict[str, Any] = {
    "collect": {"patience": "max_idle_steps", "exploration": "action_noise"},
    "vae": VAE_SETTINGS | SCHEDULE_SETTINGS,
    "memory": NETWORK_SETTINGS
    | SCHEDULE_SETTINGS
    | {
        "targets": "latent_targets",
        "overhang": "pad_episode_ends",
        "stalls_end": "terminate_on_stall",
        "length": "seq_len",
    },
    "controller": {"sees": "inputs", "units": "hidden_units"},
    "dream": {
        "dreams": "num_rollouts",
        "hazard_ratio": "termination_hazard_ratio",
        "weigh_ends": "use_expected_continuation",
        "decay": "sigma_decay",
        "average": "mean_window",
    },
    "game": {
        "patience": "max_idle_steps",
        "decay": "sigma_decay",
        "check_every": "eval_every",
        "check_episodes": "eval_episodes",
        "target": "target_return",
        "lanes": "envs_per_worker",
        "start": "init_from",
        "most_episodes": "max_episodes",
        "average": "mean_window",
        "elite": "num_eval_candidates",
        "balanced": "normalize_episodes",
        "stale": "eval_patience",
        "least_sigma": "min_sigma",
        "moments": "num_state_resets",
        "stretch": "reset_horizon",
        "scouted": "hard_episode_candidates",
    },
    "iterate": {
        "exploration": "action_noise",
        "spread": "param_noise",
        "start": "init_from",
        "newest": "recent_episodes",
        "newest_share": "recent_fraction",
        "beginnings": "initial_state_fraction",
        "worlds": "ensemble_size",
        "caution": "disagreement_penalty",
    },
}
"""Settings of the sections of ``config.yaml``, and of an iteration's ``settings.json``."""
REMOVED_SEARCH_SETTINGS: dict[str, Any] = {"antithetic": False, "bounds": None, "covariance": "auto"}
"""Removed arguments of `agents.evolve`, in the same files and in the state of a search."""
REMOVED_GAME_SETTINGS: dict[str, Any] = {"max_episodes": None, "ranked": False}
"""Removed arguments that only evolution in the environment had, in the same places."""
REMOVED_TRAINING_SETTINGS: dict[str, Any] = {"patience": 20, "dtype": "float32"}
"""Removed settings of trainings, in the same files."""
REMOVED_RUN_SETTINGS: dict[str, dict[str, Any]] = {
    "collect": {"min_steps": None, "action_noise": 0.1},
    "vae": REMOVED_TRAINING_SETTINGS | {"hud_loss_weight": None, "free_bits": 0.5},
    "memory": REMOVED_TRAINING_SETTINGS | REMOVED_NETWORK_SETTINGS | {"num_layers": 1, "latent_targets": "sample"},
    "training": REMOVED_TRAINING_SETTINGS,
    "controller": {"hidden_units": 0},
    "dream": REMOVED_SEARCH_SETTINGS | {"mean_window": 0, "use_expected_continuation": True},
    "game": REMOVED_SEARCH_SETTINGS
    | REMOVED_GAME_SETTINGS
    | {"restarts": 0, "eval_patience": None, "min_sigma": 0.0, "normalize_episodes": None}
    | {"target_return": None, "envs_per_worker": 8, "reset_horizon": 40},
    "iterate": {"vae_every": 1, "disagreement_penalty": 0.0, "initial_state_fraction": 0.25, "recent_fraction": 0.5},
}
"""Removed settings of the sections of these files, with the values that are the present behavior."""
SEARCH_SECTION = ("sigma", "sigma_decay", "whiten")
"""Settings of the section ``search``, which the sections ``dream`` and ``game`` had once, each for itself."""
CONTROLLER_INPUTS: dict[str, Any] = {"both": "z+h", "latent": "z"}
"""Values of ``controller.inputs``."""
ADDED_DENSITY_SETTINGS: dict[str, Any] = {"alternating": False}
"""Values of settings of a density that an older ``config.yaml`` does not have, where they are not the defaults."""
DENSITY_CONFIG: dict[str, Any] = {
    **NETWORK_SETTINGS,
    **SCHEDULE_SETTINGS,
    "latent": "latent_dim",
    "truncate": "bptt_length",
    "check_every": "eval_every",
    "piece": "segment_length",
    "sa": "include_sa",
}
"""Settings in the ``config.yaml`` of a density."""
SEARCH_SETTINGS: dict[str, Any] = {
    "decay": "sigma_decay",
    "coordinates": "whitening",
    "check": "eval_fitness",
    "check_every": "eval_every",
    "most_episodes": "max_episodes",
    "elite": "num_eval_candidates",
    "average": "mean_window",
    "balanced": "normalize_episodes",
    "checked by": "eval_fitness_identity",
}
"""Settings in the state of a search."""
ADDED_SEARCH_SETTINGS: dict[str, Any] = {
    "num_eval_candidates": 0,
    "sigma_decay": 1.0,
    "mean_window": 0,
    "normalize_episodes": False,
}
"""Values of settings of a search that an older state does not have."""
SEARCH_STATE: dict[str, Any] = {"best_check": "best_eval"}
"""Other keys of the state of a search."""
REMOVED_SEARCH_STATE = {"restarts": 0}
"""Removed keys of the state of a search."""
GENERATION: dict[str, Any] = {
    "check": "eval",
    "check_std": "eval_std",
    "check_n": "eval_n",
    "check_steps": "eval_steps",
    "average": "eval_average",
    "elite": "eval_candidate",
    "scouted": "hard_episodes",
    "along": "state_resets",
}
"""Keys of a generation's row in ``metrics.jsonl``."""
CONTROLLER: dict[str, Any] = {"inputs": "num_inputs", "actions": "action_dim", "hidden": "hidden_units"}
"""Arguments in a controller's repr."""
TRAINING_JOB: dict[str, Any] = {
    "updates": "num_updates",
    "batch": "batch_size",
    "length": "seq_len",
    "targets": "latent_targets",
}
"""Keys of the job in a comparison's results."""
DENSITY_STAGES: dict[str, Any] = {"learn": "fit", "judge": "evaluate"}
"""Stages of a density in ``timings.json``."""
COMPARISON: dict[str, Any] = {"margins": "marginals", "standing_still": "persistence"}
"""Keys of the measurements of a comparison."""
FIDELITY: dict[str, Any] = {
    "small": "small_motion",
    "steps": "horizon",
    "moments": "num_start_states",
    "ways": "behaviors",
    "dreamed": "dream_returns",
    "real": "real_returns",
}
"""Keys of an agent's ``fidelity.json``."""


def run_config(old: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, or some of their sections, under the current names and without removed settings."""
    new = _environments(renamed(old, RUN_CONFIG))
    for section, names in RUN_SECTIONS.items():
        if isinstance(new.get(section), dict):
            new[section] = renamed(new[section], names)
    new = _merged(new)
    for section, removed in REMOVED_RUN_SETTINGS.items():
        if not isinstance(content := new.get(section), dict):
            continue
        present = {name: value for name, value in content.items() if not _is_present(name, value, new, content)}
        new[section] = without_removed(present, removed, section)
    new = _searches(new)
    if isinstance(new.get("phases"), list):
        new["phases"] = [run_config(change) if isinstance(change, dict) else change for change in new["phases"]]
    controller = new.get("controller")
    if isinstance(controller, dict) and isinstance(controller.get("inputs"), str):
        new["controller"] = {**controller, "inputs": CONTROLLER_INPUTS.get(controller["inputs"], controller["inputs"])}
    if "env_options" in new:
        new["env_options"] = renamed_env_options(new.get("env"), new["env_options"])
    return new


def _is_present(name: str, value: Any, config: Mapping[str, Any], section: Mapping[str, Any]) -> bool:
    """Return whether a removed setting of a section had no effect, or the value that the other settings now decide."""
    if name == "vae_every":
        return not section.get("vae_updates")
    if name in ("envs_per_worker", "use_expected_continuation"):  # no effect, or an older search goes on as it began
        return True
    if name == "patience":  # the preset paper had no early stopping
        return value is None
    if name == "recent_fraction":
        return value == 0 and section.get("recent_episodes") is None
    if name == "hud_loss_weight":
        options = config.get("env_options")
        return bool(value == (16 if isinstance(options, Mapping) and options.get("show_hud") else 1))
    if name == "normalize_episodes":
        return section.get("generations") == 0 or value == bool(section.get("num_state_resets"))
    return False


def _searches(old: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with `SEARCH_SECTION` in its own section.

    Raises:
        RemovedSetting: Two sections that have an effect differ in such a setting; the message names it and the values.

    Example:
        >>> _searches({"dream": {"sigma": 0.2, "horizon": 9}, "game": {"sigma": 0.1, "generations": 0}})
        {'dream': {'horizon': 9}, 'game': {'generations': 0}, 'search': {'sigma': 0.2}}
    """
    new, shared = dict(old), dict[str, Any]()
    present = {part: new[part] for part in ("dream", "game") if isinstance(new.get(part), dict)}
    used = {part: content for part, content in present.items() if content.get("generations") != 0} or present
    for name in SEARCH_SECTION:
        values = {f"{part}.{name}": content[name] for part, content in used.items() if name in content}
        if len({repr(value) for value in values.values()}) > 1:
            given = " and ".join(f"{label} = {value!r}" for label, value in values.items())
            raise RemovedSetting(f"search.{name} is one setting now, got {given}")
        if values:
            shared[name] = next(iter(values.values()))
    new |= {part: {k: v for k, v in content.items() if k not in SEARCH_SECTION} for part, content in present.items()}
    if shared and isinstance(new.get("search", {}), dict):
        new["search"] = shared | new.get("search", {})
    return new


FLOWS = {
    (False, False): "affine",
    (True, False): "conditional",
    (False, True): "spline",
    (True, True): "conditional-spline",
}
"""Values of ``memory.flow`` for the former settings ``conditional`` and ``spline``."""


def _merged(old: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with one setting where there were several once.

    Example:
        >>> _merged({"memory": {"model": "rmdn", "full": True}, "workers": 8, "backend": "ray"})
        {'memory': {'rank': 'full', 'flow': 'none'}, 'workers': '8@ray'}
    """
    new = {name: dict(value) if isinstance(value, dict) else value for name, value in old.items()}
    collect, vae, memory, game = (
        part if isinstance(part := new.get(name), dict) else {} for name in ("collect", "vae", "memory", "game")
    )
    if (backend := new.pop("backend", "loky")) != "loky":
        new["workers"] = f"{new.get('workers', 2)}@{backend}"
    if (collect.get("episodes"), collect.get("min_steps")) == (100, 3_000):
        collect |= {"episodes": None, "min_steps": None}
    if (noise := collect.get("action_noise", 0.1)) != 0.1 and "policy" in collect:
        names = collect["policy"].split(",")
        collect["policy"] = ",".join(one if one in ("smooth", "uniform") else f"{one}:{noise}" for one in names)
        del collect["action_noise"]
    rates = [part.pop("learning_rate", 1e-3) for part in (vae, memory)]
    if rates != [1e-3, 1e-3] and isinstance(new.setdefault("training", {}), dict):
        new["training"]["learning_rate"] = rates if rates[0] != rates[1] else rates[0]
    if memory.pop("full", False):
        memory["rank"] = "full"
    if memory.keys() & {"model", "conditional", "spline"}:
        kind = memory.pop("model", "frmdn"), memory.pop("conditional", False), memory.pop("spline", False)
        memory["flow"] = "none" if kind[0] == "rmdn" else FLOWS.get(kind[1:], kind)
    if memory.pop("terminate_on_stall", False):
        memory["stall_delay"] = 0
    if "num_state_resets" in game:
        number, horizon = game.pop("num_state_resets"), game.pop("reset_horizon", 40)
        game["state_resets"] = [number, horizon] if number else None
    return new


def _environments(old: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with one environment: beside ``training_env``, ``env`` was that of scores.

    Raises:
        RemovedSetting: The scores are those of another environment, or have other options.

    Example:
        >>> _environments({"env": "CarRacing", "training_env": "FastCarRacing"})
        {'env': 'FastCarRacing'}
    """
    new = dict(old)
    if (trained := new.pop("training_env", None)) and "env" in old:
        new |= {"env": trained, "eval_env": old["env"]}
    official = {"FastCarRacing": "CarRacing", "CarRacing": None}  # collection in CarRacing is in FastCarRacing
    if new.get("eval_env") == official.get(new.get("env", ""), new.get("env")):
        new.pop("eval_env", None)
    return without_removed(new, {"eval_env": None, "eval_env_options": {}})


def config_file(old: dict[str, Any]) -> dict[str, Any]:
    """Return a ``config.yaml`` of a run (with ``env``) or a density (with ``data``) under current names; others unchanged."""
    if "env" in old or old.keys() & RUN_SECTIONS.keys():
        return run_config(old)
    return ADDED_DENSITY_SETTINGS | renamed(old, DENSITY_CONFIG) if "data" in old and "model" in old else old


def search_state(old: dict[str, Any]) -> dict[str, Any]:
    """Return the description in a search's ``state.npz`` under the current names and without removed settings."""
    new = without_removed(renamed(old, SEARCH_STATE), REMOVED_SEARCH_STATE)
    removed = REMOVED_SEARCH_SETTINGS | REMOVED_GAME_SETTINGS
    settings = ADDED_SEARCH_SETTINGS | without_removed(renamed(dict(new["settings"]), SEARCH_SETTINGS), removed)
    if isinstance(settings.get("controller"), str):
        for before, after in CONTROLLER.items():
            settings["controller"] = re.sub(rf"\b{before}=", f"{after}=", settings["controller"])
    for name in ("fitness", "eval_fitness_identity"):
        if name in settings:
            settings[name] = fitness_identity(settings[name])
    new["settings"] = settings
    if isinstance(new.get("rows"), list):
        new["rows"] = [renamed(row, GENERATION) for row in new["rows"]]
    return new


def comparison_result(old: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a comparison's ``results.json`` under the current names."""
    job = renamed(old["job"], TRAINING_JOB)
    if isinstance(job.get("settings"), dict):
        job["settings"] = renamed(job["settings"], NETWORK_SETTINGS)
    if "data" in job:
        job["data"] = data_identity(job["data"])
    return {name: job if name == "job" else _deep(value, COMPARISON) for name, value in old.items()}


def _deep(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _deep(part, names) for name, part in renamed(value, names).items()}
    return value
