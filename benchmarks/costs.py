"""Count what runs cost: frames and steps of their environments, of rollouts and of evolution."""

from worldmodel.agents.runs.run_folder import Run


def frames(runs: list[Run]) -> int:
    """Return the number of frames of the game in all runs, with action repeat; shared rollouts count once."""
    stored = sum(run.store().steps * repeat(run) for run in _stores(runs))
    return stored + sum(evolution_frames(run) for run in runs)


def steps(runs: list[Run]) -> int:
    """Return the number of environment steps in all runs: an action and its repeats are one step."""
    return sum(run.store().steps for run in _stores(runs)) + sum(run.evolution_steps("game") for run in runs)


def evolution_frames(run: Run) -> int:
    """Return the number of frames of a run's evolution in the game."""
    return run.evolution_steps("game") * repeat(run)


def _stores(runs: list[Run]) -> list[Run]:
    """Return one run for each store."""
    return list({run.rollouts_folder.resolve(): run for run in runs}.values())


def repeat(run: Run) -> int:
    """Return the action repeat of a run."""
    return int(run.store().metadata["env_options"].get("action_repeat", 1))
