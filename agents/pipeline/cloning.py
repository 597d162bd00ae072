"""The controller of a run that is cloned from stored actions. Start reading at `clone_controller`."""

from worldmodel import WorldModel
from worldmodel.agents.analysis.verdicts import Verdict
from worldmodel.agents.config.schema import OFFICIAL, RunConfig
from worldmodel.agents.evolution.behavior_cloning import Clone, clone_actions
from worldmodel.agents.pipeline.init_controller import zero_controller
from worldmodel.agents.progress import bar, console, print_verdict
from worldmodel.agents.runs.renewal import move_to_earlier
from worldmodel.agents.runs.run_folder import Run
from worldmodel.envs.registration import UNKNOWN_ENV
from worldmodel.io.files import fingerprint, read_json, write_json
from worldmodel.io.paths import expand
from worldmodel.rollouts import Store
from worldmodel.rollouts.store.write import DREAM_ENV_ID


def open_recording(path: str) -> Store:
    """Open the store of a run folder, or a store.

    Raises:
        ValueError: The folder is neither.
    """
    folder = expand(path)
    for store in (folder / "rollouts", folder):
        if (store / "metadata.json").exists():
            found = Store(store)
            found.validate_episodes(len(found), "collect or record them again")
            return found
    parts = [str(folder / name) for name in ("game", "dream") if (folder / name).is_dir()]
    hint = f"; it is a recording: choose {' or '.join(parts)}" if parts else ""
    raise ValueError(f"from must be a run folder or a store of rollouts, got {path}{hint}")


def clone_controller(run: Run, settings: RunConfig, store: Store) -> Clone:
    """Fit a controller to the actions of a store; it is written to ``RUN/clone``.

    A clone of other actions, or with another world model, is moved to ``RUN/earlier``.

    Args:
        run: Run with a world model.
        settings: Settings of the run: kind of the controller, and seed.
        store: Episodes.

    Raises:
        ValueError: The run has no world model yet, or the store does not fit it.
    """
    world, folder = run.world(), run.search("clone")
    template = zero_controller(world, settings.controller)
    with run.stage("train controller"), bar("encode frames", "frames") as progress:
        clone = clone_actions(world, store, template, settings.seed, progress)
    about = {"source": store.identity, "world": fingerprint(world), "controller": repr(template), "seed": settings.seed}
    about |= {name: value for name, value in clone._asdict().items() if name != "controller"}
    if folder.exists() and (not (folder / "clone.json").exists() or read_json(folder / "clone.json") != about):
        console.print(f"{folder.name}: the old controller is now in {move_to_earlier(folder)}", markup=False)
    clone.controller.save(folder / "controller.safetensors")
    write_json(folder / "clone.json", about)
    print_verdict(_verdict(clone, _difference(run, world, store)))
    return clone


def _verdict(clone: Clone, difference: str) -> Verdict:
    """Return the verdict on a clone: whether it predicts actions of held-out episodes."""
    if clone.error >= clone.baseline_error:
        return Verdict("clone", f"no better than a constant action: {clone}; try more episodes", "bad")
    return Verdict("clone", f"{clone}{difference}", "weak" if difference else "good")


def _difference(run: Run, world: WorldModel, store: Store) -> str:
    """Return how a store's episodes differ from those of the run, whose world model encodes them; empty: they do not."""
    options = dict(store.metadata.get("env_options") or {})
    if store.env == DREAM_ENV_ID:
        return "" if options.get("world") == fingerprint(world) else "; the episodes are dreams of another world model"
    own = run.store()
    names = [OFFICIAL.get(one.env, one.env) for one in (store, own)]
    own_options = dict(own.metadata.get("env_options") or {})
    if UNKNOWN_ENV in names or (names[0] == names[1] and options == own_options):
        return ""
    return f"; the episodes are of {names[0]} {options}, the run is of {names[1]} {own_options}"
