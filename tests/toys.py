"""Toy worlds with known answers.

Counter finds off-by-one errors, and a linear controller solves Beacon. `linear_gaussian` has an exact likelihood. `banana` is a
distribution that a few diagonal Gaussians fit badly and a flow fits well, and `bent` is a process with that shape. Dot is an
environment with pixels and dynamics: a controller pushes a square along a line.
"""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from worldmodel.batches import EventBatch

FRAMES = spaces.Box(0, 255, (64, 64, 3), np.uint8)


class Counter(gymnasium.Env):
    """Frame t is filled with t. The step from frame t to frame t + 1 has the reward t + 1. Ends after ``length`` steps."""

    metadata = {"render_modes": []}

    def __init__(self, length: int = 20, terminates: bool = True) -> None:
        self.length, self.terminates = length, terminates
        self.observation_space, self.action_space = FRAMES, spaces.Box(-1, 1, (2,), np.float32)
        self.now = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self._frame(), {}

    def step(self, action):
        self.now += 1
        over = self.now >= self.length
        return self._frame(), float(self.now), over and self.terminates, over and not self.terminates, {}

    def _frame(self):
        return np.full((64, 64, 3), self.now, np.uint8)


class Beacon(gymnasium.Env):
    """The left or the right half of the frame is lit. The reward is the action towards the lit half."""

    metadata = {"render_modes": []}

    def __init__(self, length: int = 5) -> None:
        self.length = length
        self.observation_space, self.action_space = FRAMES, spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.side = 0, int(self.np_random.integers(2))
        return self._frame(), {}

    def step(self, action):
        reward = float(action[0]) * (1 if self.side else -1)
        self.now += 1
        self.side = int(self.np_random.integers(2))
        return self._frame(), reward, False, self.now >= self.length, {}

    def _frame(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:, 32 * self.side : 32 * (self.side + 1)] = 255
        return frame


class Remembered(Beacon):
    """A Beacon whose state can be saved and restored."""

    def save_state(self):
        return self.now, self.side, self.np_random.bit_generator.state

    def load_state(self, snapshot):
        self.now, self.side, self.np_random.bit_generator.state = snapshot
        return self._frame(), {}


class Dot(gymnasium.Env):
    """A square on a uniform background at x in [-1, 1]. An action moves it by speed * action; the reward is reward(x)."""

    metadata = {"render_modes": []}

    def __init__(self, reward, start=(-1.0, 1.0), speed: float = 0.25, length: int = 12) -> None:
        self.reward, self.start, self.speed, self.length = reward, start, speed, length
        self.observation_space, self.action_space = FRAMES, spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.x = 0, float(self.np_random.uniform(*self.start))
        return dot_frame(self.x), {}

    def step(self, action):
        self.now += 1
        self.x = float(np.clip(self.x + self.speed * float(action[0]), -1, 1))
        return dot_frame(self.x), float(self.reward(self.x)), False, self.now >= self.length, {}


SIDE = 32
"""Pixels. Neighbouring squares overlap, so a VAE learns the position in seconds."""


def dot_frame(x: float, background: int = 0) -> np.ndarray:
    """A frame with a square of `SIDE` pixels at x, from -1 at the left end to 1 at the right end."""
    frame = np.full((64, 64, 3), background, np.uint8)
    left, top = round((x + 1) / 2 * (64 - SIDE)), (64 - SIDE) // 2
    frame[top : top + SIDE, left : left + SIDE] = (40, 200, 120)
    return frame


def dot_place(frame: np.ndarray) -> float:
    """The inverse of `dot_frame`, on a dark background."""
    return 2 * int(frame[32].any(axis=-1).argmax()) / (64 - SIDE) - 1


def nearness(x: float) -> float:
    """The reward of a Dot with a target at 0.5, where it is 1."""
    return 1 - abs(x - 0.5)


def cliff(x: float) -> float:
    """The reward of a Dot before a cliff at 0.5: from 0 at the left end to 7.5 at the edge, and -10 beyond."""
    return 5 * (1 + x) if x < 0.5 else -10.0


def dot_to_target() -> Dot:
    return Dot(nearness)


def dot_before_cliff() -> Dot:
    return Dot(cliff, start=(-1.0, 0.2))


def shy(space, rng):
    """A policy of random actions that never moves a Dot over the edge: right of 0.2 it pushes to the left."""
    return lambda frame: rng.uniform(-1, 1 if dot_place(frame) < 0.2 else 0, 1).astype(np.float32)


class Rewarding(gymnasium.Env):
    """Black frames for 50 steps; the reward of step t is ``rewards(seed, t)``."""

    metadata = {"render_modes": []}

    def __init__(self, rewards) -> None:
        self.rewards = rewards
        self.observation_space, self.action_space = FRAMES, spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.now = seed, 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        self.now += 1
        return np.zeros((64, 64, 3), np.uint8), float(self.rewards(self.seed, self.now)), False, self.now >= 50, {}


def now_and_then() -> Rewarding:
    """A reward of 1 at steps 4 and 8, and of 0 at all others."""
    return Rewarding(lambda seed, now: now in (4, 8))


def seeded_reward() -> Rewarding:
    """The reward of the first step is the seed of the episode."""
    return Rewarding(lambda seed, now: seed if now == 1 else 0)


def counter() -> Counter:
    return Counter()


def short_counter() -> Counter:
    return Counter(length=1)


def beacon() -> Beacon:
    return Beacon()


def remembered() -> Remembered:
    return Remembered(length=30)


def marking(space, rng):
    """A policy whose action t is (t / 100, 0.5), so that an action states its step."""
    now = -1

    def act(frame):
        nonlocal now
        now += 1
        assert frame[0, 0, 0] == now
        return np.array([now / 100, 0.5], np.float32)

    return act


def linear_gaussian(batch: int, time: int, seed: int, decay: float = 0.8, noise: float = 0.3):
    """x_{t+1} = decay x_t + a_t + noise e: latents (B, T + 1, 1), actions (B, T, 1), and the exact entropy in nats."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(batch, time + 1, 1)
    x[:, 0] = torch.randn(batch, 1, generator=generator) * noise / (1 - decay**2) ** 0.5
    actions = torch.rand(batch, time, 1, generator=generator) * 2 - 1
    for t in range(time):
        x[:, t + 1] = decay * x[:, t] + actions[:, t] + noise * torch.randn(batch, 1, generator=generator)
    return x, actions, 0.5 * float(np.log(2 * np.pi * np.e * noise**2))


def banana(count: int, seed: int) -> torch.Tensor:
    """(count, 2): y = (a, b + a^2 / 2) with a ~ N(0, 4) and b ~ N(0, 0.01); its entropy is that of (a, b)."""
    generator = torch.Generator().manual_seed(seed)
    a, b = 2 * torch.randn(count, generator=generator), 0.1 * torch.randn(count, generator=generator)
    return torch.stack((a, b + a.square() / 2), dim=1)


BANANA_ENTROPY = float(np.log(2 * np.pi * np.e) + np.log(2 * 0.1))


def autoregressive(batch: int, time: int, seed: int, decay: float = 0.8, noise: float = 0.3):
    """y_t = decay y_t-1 + noise e, from zero, in float64: events (B, T, 1), and the exact log p of each in nats, (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(batch, time, dtype=torch.float64, generator=generator)
    y = torch.zeros(batch, time + 1, dtype=torch.float64)
    for t in range(time):
        y[:, t + 1] = decay * y[:, t] + noise * errors[:, t]
    return y[:, 1:, None], -0.5 * errors.square() - float(np.log(noise * np.sqrt(2 * np.pi)))


def bent(batch: int, time: int, seed: int, decay: float = 0.5):
    """Events y = (x_1, x_2 + x_1^2 / 2) of a linear-Gaussian process x with noise (1, 0.1): (B, T, 2), and the exact log p of
    each in nats, (B, T). The transform preserves volumes: a flow can invert it exactly, diagonal Gaussians cannot fit it.
    """
    generator = torch.Generator().manual_seed(seed)
    errors, noise = torch.randn(batch, time, 2, generator=generator), torch.tensor([1.0, 0.1])
    x = torch.zeros(batch, time + 1, 2)
    for t in range(time):
        x[:, t + 1] = decay * x[:, t] + noise * errors[:, t]
    first, second = x[:, 1:].unbind(dim=-1)
    log_prob = -0.5 * errors.square().sum(dim=-1) - float(np.log(2 * np.pi * 0.1))
    return torch.stack((first, second + first.square() / 2), dim=-1), log_prob


class Sequences:
    """Data for `worldmodel.fit`: ``draw(size, seed)`` gives events (B, T, D), or a batch of them."""

    identity = "sequences"

    def __init__(self, draw) -> None:
        self.draw = draw

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        return self.made(size, int(rng.integers(1_000_000)))

    def batches(self, size):
        for number in range(4):
            yield self.made(size, 2_000_000 + number)

    def made(self, size, seed):
        drawn = self.draw(size, seed)
        return whole(drawn) if isinstance(drawn, torch.Tensor) else drawn


def whole(event: torch.Tensor, log_jacobian: float = 0.0) -> EventBatch:
    """Sequences without padding, as a batch."""
    return EventBatch(event, event.new_ones(event.shape[:2]), event.new_full((len(event),), log_jacobian))


class RoadFollower:
    """A policy for CarRacing that steers towards the visible grey road in 64x64 frames."""

    def __call__(self, space, rng):
        return self.act

    def act(self, frame):
        road = np.ptp(frame.astype(int), axis=2) < 25
        rows = road[20:44, 8:56]
        middle = np.arange(48) - 23.5
        weight = rows.sum()
        lean = float((rows * middle).sum() / weight) if weight else 0.0
        return np.array([np.clip(lean / 8, -1, 1), -0.5, 0.0], np.float32)
