"""Videos and images of a world model: dreams beside the real game, reconstructions, latent traversals, predicted rewards.

`agents.analysis.report` and ``worldmodel dream`` use them. Start reading at `film`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from worldmodel import WorldModel
from worldmodel.agents.analysis import plots, video
from worldmodel.messages import format_number
from worldmodel.rollouts import pictures
from worldmodel.rollouts.dream import dream, open_loop_rollout
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset
from worldmodel.rollouts.store.store import Store
from worldmodel.start_states import StartStates

TEMPERATURES = (0.1, 0.5, 1.0, 1.5)
"""Temperatures of the dreams that `temperature_film` shows side by side."""
START = 32
"""Default number of real steps before a dream along an episode, if the episode is long enough."""
MIN_SECONDS, MIN_FPS, MAX_FPS = 4, 5, 25
"""Minimum duration of a video, unless the frame rate would be below the minimum; bounds of frames per second."""
NUM_EPISODES, FRAMES_PER_EPISODE = 20, 24
"""Number of episodes, and of frames of each, among which `varied_frames` chooses."""
NUM_LATENTS, NUM_VALUES, FURTHEST = 8, 9, 2.5
"""Traversals: number of latent dimensions, number of values of each, and largest deviation in standard deviations."""


@torch.no_grad()
def encode_means(world: WorldModel, episode: Episode) -> Tensor:
    """Return the encoder means of an episode's frames, (T + 1, latent)."""
    frames = torch.from_numpy(episode.frames)
    return torch.cat([world.encode(chunk) for chunk in frames.split(256)])


def film(
    world: WorldModel, episode: Episode, temperature: float = 1.0, seed: int = 0, start_step: int | None = None
) -> np.ndarray:
    """Return a video (T, H, W, 3) of the real game, its reconstruction and the dream under the same actions, side by side.

    Args:
        world: World model.
        episode: Real episode.
        temperature: Temperature of the dream.
        seed: Seed of the dream's noise.
        start_step: Last real step before the dream. None: see `resolve_start_step`.
    """
    start_step, latents = resolve_start_step(episode, start_step), encode_means(world, episode)
    dreamed = open_loop_rollout(world, latents, world.action_inputs(episode.actions), start_step, temperature, seed)
    shown = (
        world.draw_observations(episode.frames[start_step:]),
        world.draw(latents[start_step:]),
        world.draw(dreamed),
    )
    return video.side_by_side(*(pictures.enlarge(part) for part in shown))


def temperature_film(
    world: WorldModel,
    episode: Episode,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    start_step: int | None = None,
) -> np.ndarray:
    """Return a video (T, H, W, 3) of the real game, and of dreams at several temperatures, side by side.

    All dreams have the same actions and the same random numbers.

    Args:
        world: World model.
        episode: Real episode.
        temperatures: Temperatures of the dreams.
        seed: Seed of the noise.
        start_step: Last real step before the dreams. None: see `resolve_start_step`.
    """
    start_step, latents = resolve_start_step(episode, start_step), encode_means(world, episode)
    actions = world.action_inputs(episode.actions)
    films = [with_title(pictures.enlarge(world.draw_observations(episode.frames[start_step:]), 3), "game")]
    for temperature in temperatures:
        dreamed = open_loop_rollout(world, latents, actions, start_step, temperature, seed)
        films.append(with_title(pictures.enlarge(world.draw(dreamed), 3), f"temperature {temperature:g}"))
    return video.side_by_side(*films)


def controller_film(
    world: WorldModel, controller: Controller, episode: Episode, steps: int, temperature: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Return a video (T, H, W, 3) of a controller in the game and in a dream that starts from the same first frame.

    Args:
        world: World model.
        controller: Controller.
        episode: Episode of the controller in the game.
        steps: Largest number of steps of the dream.
        temperature: Temperature of the dream.
        seed: Seed of the dream's noise.
    """
    first, action = encode_means(world, episode.first(1)), world.action_inputs(episode.actions[:1])
    start = StartStates(first[None].cpu(), action[None].cpu(), torch.ones(1, dtype=torch.int32))
    dreams = dream(world, controller, start, steps, 1, temperature, seed, keep=("frames",))
    assert dreams.frames is not None
    dreamed = dreams.frames[0, 0, : int(dreams.lengths[0, 0]) + 1]
    shown = (world.draw_observations(episode.frames), world.draw_observations(dreamed))
    returns = (float(episode.rewards.sum(dtype=np.float64)), float(dreams.returns[0, 0]))
    films = [
        with_title(pictures.enlarge(frames), f"{name}: return {format_number(total)}, {len(frames) - 1} steps")
        for name, frames, total in zip(("game", "dream"), shown, returns, strict=True)
    ]
    longest = max(map(len, films))
    return video.side_by_side(*(film[np.arange(longest).clip(max=len(film) - 1)] for film in films))


def varied_frames(store: Store, latents: EncodedDataset, count: int = 10) -> np.ndarray:
    """Return observations (count, ...) with very different latents, from episodes spread over a store."""
    candidates = []
    for index in np.unique(np.linspace(0, len(store) - 1, NUM_EPISODES).astype(int)):
        times = np.unique(np.linspace(0, store.lengths[index], FRAMES_PER_EPISODE).astype(int))
        candidates += [(int(index), int(time)) for time in times]
    means = np.stack([latents.episode(index).mean[time] for index, time in candidates]).astype(np.float32)
    scaled = (means - means.mean(axis=0)) / np.maximum(means.std(axis=0), 1e-6)
    chosen = _farthest_points(scaled, min(count, len(candidates)))
    frames = []
    for index, time in (candidates[row] for row in sorted(chosen)):
        shard, number = store.locate(index)
        frames.append(store.reader.frames(shard, number, time, time + 1)[0][0])
    return np.stack(frames)


def _farthest_points(points: np.ndarray, count: int) -> list[int]:
    """Choose points by farthest point sampling, from the point with the smallest norm; returns their indices."""
    chosen = [int(np.linalg.norm(points, axis=1).argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen] = -1.0  # excludes chosen points, also if all points are equal
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def reconstructions(world: WorldModel, frames: np.ndarray) -> np.ndarray:
    """Return an image with three rows: frames, their reconstructions, and the absolute error of each pixel."""
    with torch.no_grad():
        decoded = world.draw(world.encode(torch.from_numpy(frames)))
    frames = world.draw_observations(frames)
    return pictures.grid([frames, decoded, np.abs(frames.astype(np.int16) - decoded).astype(np.uint8)])


def traversals(world: WorldModel, latents: np.ndarray, frame_index: int = 40) -> tuple[np.ndarray, list[int]]:
    """Return latent traversals: one row of images for each of the latent dimensions that vary most.

    Args:
        world: World model.
        latents: Means of q(z|x) of many frames, (N, latent).
        frame_index: Index of the frame whose latents are varied, or the last one if there are fewer. It is not 0, because the
            first frames of a game are often unusual.

    Returns:
        The image, and the dimension of each row, sorted by decreasing standard deviation.
    """
    mean, std = latents.mean(axis=0), latents.std(axis=0)
    dimensions = np.argsort(-std)[:NUM_LATENTS]
    rows = np.tile(latents[min(frame_index, len(latents) - 1)].astype(np.float32), (len(dimensions), NUM_VALUES, 1))
    for row, dimension in enumerate(dimensions):
        rows[row, :, dimension] = mean[dimension] + np.linspace(-FURTHEST, FURTHEST, NUM_VALUES) * std[dimension]
    images = world.draw(torch.from_numpy(rows).to(world.device))
    return pictures.grid(list(images)), [int(dimension) for dimension in dimensions]


@torch.no_grad()
def rewards(world: WorldModel, episode: Episode) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the predicted and the real reward of each step, (T,) each; None: the memory has no reward head.

    The memory predicts one step ahead, from the real latents and actions before it.
    """
    latents = encode_means(world, episode)
    prediction, _ = world.memory(latents[None, :-1], world.action_inputs(episode.actions)[None])
    if prediction.reward_logits is None:
        return None
    return world.memory.expected_reward(prediction.reward_logits)[0].cpu().numpy(), episode.rewards


def reward_plot(world: WorldModel, episode: Episode) -> bytes | None:
    """Plot the cumulative predicted and real rewards of an episode, as PNG; None: the memory has no reward head."""
    pair = rewards(world, episode)
    if pair is None:
        return None
    steps = list(range(1, len(episode) + 1))
    series = {
        name: (steps, np.cumsum(values).tolist()) for name, values in zip(("predicted", "real"), pair, strict=True)
    }
    return plots.curves(series, "step", "cumulative reward")


def frames_per_second(count: int) -> int:
    """Return the frame rate of a video of ``count`` frames: short videos play slowly."""
    return int(np.clip(count / MIN_SECONDS, MIN_FPS, MAX_FPS))


def write_film(folder: Path, name: str, frames: np.ndarray) -> list[Path]:
    """Write a video (T, H, W, 3) as MP4, and its start as a GIF; returns their paths."""
    video.write_mp4(folder / f"{name}.mp4", frames, frames_per_second(len(frames)))
    video.write_preview(folder / f"{name}.gif", frames)
    return [folder / f"{name}.mp4", folder / f"{name}.gif"]


def resolve_start_step(episode: Episode, start_step: int | None = None) -> int:
    """Return the step from which a dream along an episode starts.

    Args:
        episode: Real episode.
        start_step: Step. None: `START`, or half of the episode if that is less.

    Raises:
        ValueError: The episode has fewer than 2 steps, or no step after ``start_step``.
    """
    if len(episode) < 2:
        raise ValueError(f"episode must have at least 2 steps to dream along, got {len(episode)}")
    if start_step is not None and not 0 <= start_step < len(episode):
        raise ValueError(f"start_step must be from 0 to {len(episode) - 1} in this episode, got {start_step}")
    return min(START, len(episode) // 2) if start_step is None else start_step


def long_episode(lengths: Sequence[int], start_step: int | None = None) -> int:
    """Return the index of the first episode with at least twice ``start_step`` steps, or else of the longest episode.

    Args:
        lengths: Number of steps of each episode.
        start_step: Step from which a dream starts. None: `START`.
    """
    min_steps = 2 * max(START if start_step is None else start_step, 1)
    indices = [index for index, steps in enumerate(lengths) if steps >= min_steps]
    return indices[0] if indices else int(np.argmax(lengths))


def with_title(film: np.ndarray, title: str, height: int = 16) -> np.ndarray:
    """Return a video with a title line of ``height`` pixels above it."""
    line = Image.new("RGB", (film.shape[2], height), "white")
    ImageDraw.Draw(line).text((4, 2), title, fill="black")
    above = np.broadcast_to(np.asarray(line), (len(film), height, film.shape[2], 3))
    return np.concatenate((above, film), axis=1)
