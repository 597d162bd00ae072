"""Lives in lockstep: one process steps several environments and acts for all of them at once.

Start reading at `live`, the one loop in which episodes are played. Collecting, `rollouts.played` and `agents.evaluate`
stand on it; what differs between them is the `Mind` that acts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor

import envs
from envs.env_checker import describe_error, validate_flag, validate_reward
from envs.pixels import to_pixels
from rollouts.controllers import Controller
from rollouts.episode import Episode, checked_action, checked_frame
from rollouts.policies import Act, Policy, named
from rollouts.ways import Moment, go_to
from worldmodel import WorldModel
from worldmodel.batches import tree_map
from worldmodel.mdn_rnn import State
from worldmodel.rng import Stream


class Life(NamedTuple):
    """One episode that was lived."""

    total: float
    """The sum of its rewards."""
    length: int
    """Its steps."""
    info: dict[str, Any]
    """What the environment said with the last step, numbers, strings and flags only."""
    episode: Episode | None = None
    """All that was seen and done, where it was asked for."""
    actions: tuple[Any, ...] = ()
    """What was done."""


FAILURES = (Exception, SystemExit)
"""What an environment or a policy may raise; `sys.exit` in it must not look like the end of a command."""


class Mind(Protocol):
    """Acts for the lives that go on in some lanes; their states and their randomness live in it."""

    def begin(self, lane: int, life: int) -> None:
        """Life number ``life`` begins in a lane; what was there before is forgotten."""
        ...

    def act(self, frames: np.ndarray, lanes: Sequence[int]) -> Sequence[Any]:
        """An action for each of ``frames`` (n, 64, 64, 3), which are seen in ``lanes`` (n)."""
        ...


@runtime_checkable
class CrowdPolicy(Protocol):
    """A policy that acts for many episodes faster than one by one (`agents.Agent`)."""

    def crowd(
        self,
        space: gymnasium.Space[Any],
        rngs: Sequence[np.random.Generator],
        rows: Sequence[int] | None,
        lanes: int,
    ) -> Mind:
        """A mind for one life for each generator; ``rows`` and ``lanes`` as in `Together`."""
        ...


class SpoiledLife(ValueError):
    """An environment or a policy did what cannot be recorded; elsewhere it is a plain ValueError."""

    lives: Sequence[Life | None] = ()
    """The lives of the same call that had ended, each in its place."""

    def __reduce__(self) -> Any:
        """Another process gets the words alone."""
        return ValueError, self.args


def live(
    games: Sequence[gymnasium.Env[Any, Any]],
    mind: Mind,
    seeds: Sequence[int],
    *,
    patience: int | None = None,
    max_steps: int | None = None,
    record: bool = False,
    begins: Sequence[Moment] = (),
    numbers: Sequence[int] = (),
    on_end: Callable[[], None] | None = None,
) -> list[Life]:
    """Live ``len(seeds)`` episodes in ``games``, a free one taking the next episode.

    Args:
        games: environments with 64x64x3 frames; as many lives go on at once.
        mind: acts.
        seeds: the environment seed of each life.
        patience: give up a life after this many steps without a reward above zero (training only); None: never.
        max_steps: cut lives here; None: when the environment says so.
        record: whether to keep every frame and action (`Life.episode`).
        begins: where each life begins, for a mind that knows what was before; none: where episodes do.
        numbers: what the episodes are called in messages; none: their places.
        on_end: called at the end of each episode.

    Raises:
        SpoiledLife: a reward is not finite, a frame or an action is none of ours, or the environment or the policy raises
            something; with the episode, its seed, its step, and where in whose code.
    """
    lives: list[Life | None] = [None] * len(seeds)
    waiting = list(range(len(seeds)))[::-1]
    lanes = [_Lane(number, game, record) for number, game in enumerate(games[: len(seeds)])]

    def begin(lane: _Lane) -> None:
        index = waiting.pop()
        name = f"episode {numbers[index] if numbers else index} (environment seed {seeds[index]})"
        lane.begin(mind, index, seeds[index], begins[index] if begins else None, name)

    try:
        for lane in lanes:
            begin(lane)
        while lanes:
            try:
                actions = mind.act(np.stack([lane.frame for lane in lanes]), [lane.number for lane in lanes])
            except FAILURES as error:
                if isinstance(mind, OneByOne) and not isinstance(error, MemoryError):  # a policy of somebody else's
                    raise lanes[0].spoiled(f"step {lanes[0].length + 1}, the policy", error) from error
                raise
            going = []
            for lane, action in zip(lanes, actions, strict=True):
                if lane.step(action, patience, max_steps):
                    lives[lane.life] = lane.ended()
                    if on_end is not None:
                        on_end()
                    if not waiting:
                        continue
                    begin(lane)
                going.append(lane)
            lanes = going
    except SpoiledLife as error:
        error.lives = lives
        raise
    return [life for life in lives if life is not None]


class _Lane:
    """One environment and the life that goes on in it."""

    def __init__(self, number: int, game: gymnasium.Env[Any, Any], record: bool) -> None:
        self.number, self.game, self.record = number, game, record
        kind, self.size = envs.action_kind(game.action_space)
        self.discrete = kind == "discrete"

    def begin(self, mind: Mind, life: int, seed: int, moment: Moment | None, name: str) -> None:
        self.life, self.seed, self.total, self.length, self.idle = life, seed, 0.0, 0, 0
        self.name = name
        self.info: dict[str, Any] = {}
        try:
            mind.begin(self.number, life)
            frame = self.game.reset(seed=seed)[0] if moment is None else go_to(self.game, moment, seed)
            self.frame = checked_frame(frame)
        except MemoryError:
            raise
        except FAILURES as error:
            raise self.spoiled("reset", error) from error
        self.frames, self.actions, self.rewards = [self.frame], list[Any](), list[float]()

    def step(self, action: Any, patience: int | None, max_steps: int | None) -> bool:
        """Take a step; say whether the life is over."""
        try:
            action = checked_action(action, self.discrete, self.size)
            frame, earned, terminated, truncated, self.info = self.game.step(action)
            self.frame, reward = checked_frame(frame), validate_reward(earned)
            validate_flag("terminated", terminated)
            validate_flag("truncated", truncated)
        except MemoryError:
            raise
        except FAILURES as error:
            raise self.spoiled(f"step {self.length + 1}", error) from error
        self.total += reward
        self.length += 1
        self.idle = 0 if reward > 0 else self.idle + 1
        cut = (patience is not None and self.idle >= patience) or (max_steps is not None and self.length >= max_steps)
        self.terminated = bool(terminated)
        self.truncated = bool(truncated) or (cut and not terminated)
        self.actions.append(action)
        if self.record:
            self.frames.append(self.frame)
            self.rewards.append(reward)
        return self.terminated or self.truncated

    def spoiled(self, when: str, error: BaseException) -> SpoiledLife:
        """What to raise where the environment or the policy fails."""
        return SpoiledLife(f"{self.name}, {when}: {describe_error(error)}")

    def ended(self) -> Life:
        plain = {key: value for key, value in self.info.items() if isinstance(value, bool | int | float | str)}
        return Life(self.total, self.length, plain, self._episode() if self.record else None, tuple(self.actions))

    def _episode(self) -> Episode:
        kind = np.int64 if isinstance(self.game.action_space, gymnasium.spaces.Discrete) else np.float32
        frames, actions = np.stack(self.frames), np.asarray(self.actions, kind)
        if kind is np.float32:
            actions = actions.clip(-1, 1)  # what the game did: its adapter clips, too
        rewards = np.asarray(self.rewards, np.float32)
        return Episode(frames, actions, rewards, self.terminated, self.truncated, self.seed)


def play(
    env: gymnasium.Env[Any, Any], policy: Policy | str, seed: int, index: int = 0, max_steps: int | None = None
) -> Episode:
    """Play one episode; the same environment, policy and seed give the same episode.

    Args:
        env: an environment (`envs.make`); one of your own is brought to our frames and actions (`envs.pixels.to_pixels`).
        policy: see `rollouts.policies`.
        seed: of the environment and, in a stream of its own, of the policy.
        index: the episode's place in a store.
        max_steps: cut here; None: when the environment says so.

    Raises:
        ValueError: the environment shows no pixels, or does what cannot be recorded.
    """
    env = to_pixels(env)
    mind = mind_of(named(policy), env.action_space, [seed])
    episode = live([env], mind, [seed], max_steps=max_steps, record=True)[0].episode
    assert episode is not None
    return episode.at(index)


# Minds ----------------------------------------------------------------------------------------------------------------


def mind_of(
    policy: Policy,
    space: gymnasium.Space[Any],
    seeds: Sequence[int],
    rows: Sequence[int] | None = None,
    lanes: int = 1,
) -> Mind:
    """The mind of a policy in the episodes with these seeds; each has a random stream of its own.

    Rows and lanes are for policies that think in batches (`Together`).
    """
    rngs = [np.random.default_rng([seed, Stream.POLICY]) for seed in seeds]
    if isinstance(policy, CrowdPolicy):
        return policy.crowd(space, rngs, rows, lanes)
    return OneByOne(policy, space, rngs)


class OneByOne:
    """A plain policy, life by life."""

    def __init__(self, policy: Policy, space: gymnasium.Space[Any], rngs: Sequence[np.random.Generator]) -> None:
        self.policy, self.space, self.rngs = policy, space, rngs
        self.acts: dict[int, Act] = {}

    def begin(self, lane: int, life: int) -> None:
        """A fresh function for the episode."""
        self.acts[lane] = self.policy(self.space, self.rngs[life])

    def act(self, frames: np.ndarray, lanes: Sequence[int]) -> Sequence[Any]:
        """Ask one after the other."""
        return [self.acts[lane](frame) for lane, frame in zip(lanes, frames, strict=True)]


class Together:
    """A world model and its controllers: all frames are encoded, remembered and answered as one batch.

    The latent a controller sees is the posterior's mean.

    Args:
        world: the world model.
        family: how parameters act.
        parameters: (lives, size): the controller of each life.
        space: of the environments' actions.
        lanes: how many lives go on at once.
        exploration: standard deviation of noise on Box actions, or the probability of a random choice.
        rngs: a generator for each life; only exploration draws from them.
        rows: where in the batch each life is computed. With rows the batch has all ``lanes`` at all times, so that a
            life's numbers depend on nothing that happens beside it, to the last bit on one machine. None: only
            who lives is computed.
        memories: what each life remembers when it begins, a batch of one; none: nothing.

    Raises:
        ValueError: the world model was not made for these actions.
    """

    def __init__(
        self,
        world: WorldModel,
        family: Controller,
        parameters: Tensor,
        space: gymnasium.Space[Any],
        lanes: int,
        exploration: float = 0.0,
        rngs: Sequence[np.random.Generator] = (),
        rows: Sequence[int] | None = None,
        memories: Sequence[State] = (),
    ) -> None:
        check_actions(world, space)
        self.world, self.family, self.parameters = world.eval(), family, parameters
        self.exploration, self.rngs, self.rows, self.memories = exploration, rngs, rows, memories
        self.device = world.device
        self.memory = world.initial(lanes).memory
        self.frames = np.zeros((lanes, 64, 64, 3), np.uint8)
        self.lives = [0] * lanes
        """The life in each row of the batch."""
        self.row: dict[int, int] = {}
        """The row of each lane."""

    @torch.no_grad()
    def begin(self, lane: int, life: int) -> None:
        """Forget what was remembered in this lane, and remember what the life begins with."""
        row = self.row[lane] = lane if self.rows is None else self.rows[life]
        self.lives[row] = life
        for number, part in enumerate(self.memory):
            part[row] = self.memories[life][number][0] if self.memories else 0

    @torch.no_grad()
    def act(self, frames: np.ndarray, lanes: Sequence[int]) -> Sequence[Any]:
        """Encode, act, remember."""
        world, rows = self.world, [self.row[lane] for lane in lanes]
        computed = rows
        if self.rows is not None:
            self.frames[rows] = frames
            frames, computed = self.frames, list(range(len(self.frames)))
        place = {row: number for number, row in enumerate(computed)}
        parameters = self.parameters[[self.lives[row] for row in computed]].to(self.device)
        latent = world.encode(torch.from_numpy(frames))
        state = world.initial(len(computed))._replace(memory=tree_map(self.memory, lambda part: part[computed]))
        features = state.with_latent(latent).controller_inputs[:, None]
        action = world.squash(self.family.outputs(parameters, features)[:, 0])
        if self.exploration:
            for row in rows:
                action[place[row]] = self._explore(action[place[row]], self.rngs[self.lives[row]])
        for part, new in zip(self.memory, world.observe(state, latent, action).memory, strict=True):
            part[computed] = new
        commands = (action.argmax(dim=-1) if world.discrete else action).cpu().numpy()
        return [commands[place[row]] for row in rows]

    def _explore(self, action: Tensor, rng: np.random.Generator) -> Tensor:
        if not self.world.discrete:
            noise = torch.from_numpy(rng.normal(0, self.exploration, action.shape).astype(np.float32))
            return (action + noise.to(action)).clamp(-1, 1)
        if rng.random() >= self.exploration:
            return action
        return torch.zeros_like(action).index_fill_(0, torch.tensor(int(rng.integers(len(action)))), 1.0)


def check_actions(world: WorldModel, space: gymnasium.Space[Any]) -> None:
    """Refuse an action space that the world model was not made for."""
    kind, size = envs.action_kind(space)
    if (kind == "discrete", size) != (world.discrete, world.action_dim):
        made = "discrete" if world.discrete else "box"
        raise ValueError(
            f"the world model was made for {world.action_dim} {made} actions, the environment has {size} {kind} actions"
        )
