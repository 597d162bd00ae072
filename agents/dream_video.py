"""What a world model sees and dreams, as pictures: films beside reality, latents turned one by one, predicted rewards.

`agents.report` and ``worldmodel dream`` show them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from agents import plots, video
from agents.controller import Controller
from rollouts.dream import dream, open_loop_rollout
from rollouts.encoded_dataset import EncodedDataset
from rollouts.episode import Episode
from rollouts.store import Store
from worldmodel import WorldModel
from worldmodel.formatting import format_number
from worldmodel.start_states import StartStates

TEMPERATURES = (0.1, 0.5, 1.0, 1.5)
"""Of the film that shows dreams of the same moment side by side."""
START = 32
"""Real steps before a dream along an episode, where it is long enough: the memory has seen as many."""
SECONDS, SLOWEST, FASTEST = 4, 5, 25
"""How long a film lasts at least, where its frames a second allow."""
EPISODES, CANDIDATES = 20, 24
"""Episodes, and frames of each, that reconstructions are chosen from."""
TURNED, TURNS, FURTHEST = 8, 9, 2.5
"""Latents of a traversal, pictures of each, and how many standard deviations from the mean the outermost ones are."""


@torch.no_grad()
def seen(world: WorldModel, episode: Episode) -> Tensor:
    """The episode's frames as the VAE's means, (T + 1, latent)."""
    frames = torch.from_numpy(episode.frames)
    return torch.cat([world.encode(part) for part in frames.split(256)])


def film(
    world: WorldModel, episode: Episode, temperature: float = 1.0, seed: int = 0, start: int | None = None
) -> np.ndarray:
    """Reality, the VAE's reconstruction of it, and the dream under the same actions, side by side (T, H, W, 3)."""
    start, latents = start_step(episode, start), seen(world, episode)
    dreamed, _ = open_loop_rollout(world, latents, world.action_inputs(episode.actions), start, 1, temperature, seed)
    shown = (episode.frames[start:], world.decode(latents[start:]), world.decode(dreamed[0]))
    return video.side_by_side(*(video.enlarge(part) for part in shown))


def temperature_film(
    world: WorldModel,
    episode: Episode,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    start: int | None = None,
) -> np.ndarray:
    """Reality, and the dream at several temperatures with the same luck and under the same actions (T, H, W, 3)."""
    start, latents = start_step(episode, start), seen(world, episode)
    actions = world.action_inputs(episode.actions)
    films = [_titled(video.enlarge(episode.frames[start:], 3), "the game")]
    for temperature in temperatures:
        dreamed, _ = open_loop_rollout(world, latents, actions, start, 1, temperature, seed)
        films.append(_titled(video.enlarge(world.decode(dreamed[0]), 3), f"temperature {temperature:g}"))
    return video.side_by_side(*films)


def driving_film(
    world: WorldModel, controller: Controller, episode: Episode, steps: int, temperature: float = 1.0, seed: int = 0
) -> np.ndarray:
    """A controller's episode in the game, and the same controller in its own dream from the first frame on (T, H, W, 3)."""
    first, action = seen(world, episode.first(1)), world.action_inputs(episode.actions[:1])
    start = StartStates(first[None].cpu(), action[None].cpu(), torch.ones(1, dtype=torch.int32))
    dreams = dream(world, controller, start, steps, 1, temperature, seed, keep=("frames",))
    assert dreams.frames is not None
    shown = (episode.frames, dreams.frames[0, 0, : int(dreams.lengths[0, 0]) + 1])
    returns = (float(episode.rewards.sum(dtype=np.float64)), float(dreams.returns[0, 0]))
    films = [
        _titled(video.enlarge(frames), f"{name}: return {format_number(total)}, {len(frames) - 1} steps")
        for name, frames, total in zip(("the game", "its dream"), shown, returns, strict=True)
    ]
    longest = max(map(len, films))
    return video.side_by_side(*(film[np.arange(longest).clip(max=len(film) - 1)] for film in films))


def varied_frames(store: Store, latents: EncodedDataset, count: int = 10) -> np.ndarray:
    """Frames that differ much in their latents, of episodes from all over a store (count, 64, 64, 3)."""
    places = []
    for index in np.unique(np.linspace(0, len(store) - 1, EPISODES).astype(int)):
        times = np.unique(np.linspace(0, store.lengths[index], CANDIDATES).astype(int))
        places += [(int(index), int(time)) for time in times]
    seen = np.stack([latents.episode(index).mean[time] for index, time in places]).astype(np.float32)
    chosen = _far_apart((seen - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 1e-6), min(count, len(places)))
    frames = []
    for index, time in (places[place] for place in sorted(chosen)):
        shard, number = store.locate(index)
        frames.append(store.reader.frames(shard, number, time, time + 1)[0][0])
    return np.stack(frames)


def _far_apart(points: np.ndarray, count: int) -> list[int]:
    """Points of which each is as far as can be from those before; the first one is in the middle."""
    chosen = [int(np.linalg.norm(points, axis=1).argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen] = -1.0  # none is shown twice, even where all are alike
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def reconstructions(world: WorldModel, frames: np.ndarray) -> np.ndarray:
    """Frames, what the VAE makes of them, and the absolute error of each pixel, as rows of one picture."""
    with torch.no_grad():
        drawn = world.decode(world.encode(torch.from_numpy(frames)))
    return video.grid([frames, drawn, np.abs(frames.astype(np.int16) - drawn).astype(np.uint8)])


def traversals(world: WorldModel, latents: np.ndarray, turned: int = 40) -> tuple[np.ndarray, list[int]]:
    """The latents of a frame, turned one by one: a row of pictures for each of the most varying ones.

    Args:
        world: the world model.
        latents: (N, latent): means of q(z|x) of many frames.
        turned: the frame that is turned (the last one, if there are fewer): games begin with rare pictures.

    Returns:
        The picture, and which latents its rows are, the most varying first.
    """
    middle, spread = latents.mean(axis=0), latents.std(axis=0)
    chosen = np.argsort(-spread)[:TURNED]
    rows = np.tile(latents[min(turned, len(latents) - 1)].astype(np.float32), (len(chosen), TURNS, 1))
    for row, latent in enumerate(chosen):
        rows[row, :, latent] = middle[latent] + np.linspace(-FURTHEST, FURTHEST, TURNS) * spread[latent]
    shown = world.decode(torch.from_numpy(rows).to(world.device))
    return video.grid(list(shown)), [int(latent) for latent in chosen]


@torch.no_grad()
def rewards(world: WorldModel, episode: Episode) -> tuple[np.ndarray, np.ndarray] | None:
    """Each step's reward as the memory predicted it from what was before, and as it was; None without a reward head."""
    latents = seen(world, episode)
    prediction, _ = world.memory(latents[None, :-1], world.action_inputs(episode.actions)[None])
    if prediction.reward_logits is None:
        return None
    return world.memory.expected_reward(prediction.reward_logits)[0].cpu().numpy(), episode.rewards


def reward_plot(world: WorldModel, episode: Episode) -> bytes | None:
    """Sums of predicted and real rewards over an episode, as PNG."""
    found = rewards(world, episode)
    if found is None:
        return None
    steps = list(range(1, len(episode) + 1))
    lines = {name: (steps, np.cumsum(part).tolist()) for name, part in zip(("predicted", "real"), found, strict=True)}
    return plots.curves(lines, "step", "sum of rewards")


def write_film(folder: Path, name: str, shots: np.ndarray) -> list[Path]:
    """Write a film as MP4, and its beginning as a GIF; returns their paths."""
    fps = int(np.clip(len(shots) / SECONDS, SLOWEST, FASTEST))  # a short film is shown slowly
    video.write_mp4(folder / f"{name}.mp4", shots, fps)
    video.write_preview(folder / f"{name}.gif", shots)
    return [folder / f"{name}.mp4", folder / f"{name}.gif"]


def start_step(episode: Episode, start: int | None = None) -> int:
    """The last real frame that a dream along an episode sees: ``start``, or as many steps in as `START` and the episode allow.

    Raises:
        ValueError: there is no step behind it.
    """
    if len(episode) < 2:
        raise ValueError(f"episode must have at least 2 steps to dream along, got {len(episode)}")
    if start is not None and not 0 <= start < len(episode):
        raise ValueError(f"start must be from 0 to {len(episode) - 1} in this episode, got {start}")
    return min(START, len(episode) // 2) if start is None else start


def long_episode(lengths: Sequence[int], start: int | None = None) -> int:
    """The first episode with as many steps behind ``start`` as before it, or else the longest one."""
    wanted = 2 * max(START if start is None else start, 1)
    fitting = [index for index, steps in enumerate(lengths) if steps >= wanted]
    return fitting[0] if fitting else int(np.argmax(lengths))


def _titled(film: np.ndarray, title: str, height: int = 16) -> np.ndarray:
    """A film with a line of text above it."""
    strip = Image.new("RGB", (film.shape[2], height), "white")
    ImageDraw.Draw(strip).text((4, 2), title, fill="black")
    above = np.broadcast_to(np.asarray(strip), (len(film), height, film.shape[2], 3))
    return np.concatenate((above, film), axis=1)
