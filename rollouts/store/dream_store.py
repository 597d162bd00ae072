"""Write dreams in the format of real episodes, so that they can be read with `rollouts.Store`.

Start reading at `write_dreams`.
"""

import os

import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.io.files import fingerprint
from worldmodel.io.paths import folder_path
from worldmodel.rollouts.dream import Dreams
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.store.conversion import ActionKind
from worldmodel.rollouts.store.store import Store
from worldmodel.rollouts.store.write import DREAM_ENV_ID, store_metadata, write_store


def write_dreams(dreams: Dreams, world: WorldModel, out: str | os.PathLike[str]) -> Store:
    """Write dreams into a new store, with frames or vectors decoded by the VAE.

    Args:
        dreams: Result of `rollouts.dream` with ``keep=("latents", "actions", "rewards")``.
        world: World model of the dreams.
        out: Path of the store; a new or empty folder.

    Raises:
        ValueError: ``dreams`` lacks latents, actions or rewards, or the folder is not empty.
    """
    if dreams.latents is None or dreams.actions is None or dreams.rewards is None:
        raise ValueError('dreams must hold latents, actions and rewards: use keep=("latents", "actions", "rewards")')
    shape = dreams.lengths.shape
    metadata = store_metadata(
        DREAM_ENV_ID, {"world": fingerprint(world)}, f"{shape[0]} controllers, {shape[1]} dreams each"
    )
    metadata["max_steps"] = dreams.actions.shape[2]
    episodes = (_episode(dreams, world, *index) for index in np.ndindex(*shape))
    return write_store(
        episodes, folder_path(out, "out"), metadata, ActionKind(world.discrete, world.action_dim, world.nvec)
    )


def _episode(dreams: Dreams, world: WorldModel, controller: int, number: int) -> Episode:
    """Return one dream as an episode."""
    assert dreams.latents is not None and dreams.actions is not None and dreams.rewards is not None
    steps = int(dreams.lengths[controller, number])
    actions = dreams.actions[controller, number, :steps]
    terminated = bool(dreams.terminated[controller, number])
    latents = torch.from_numpy(dreams.latents[controller, number, : steps + 1]).to(world.device)
    return Episode(
        frames=world.decode(latents),
        actions=actions.argmax(axis=-1).astype(np.int64) if world.discrete else actions.astype(np.float32),
        rewards=dreams.rewards[controller, number, :steps].astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
    )
