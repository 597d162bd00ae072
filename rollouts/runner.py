"""Play episodes: one process steps several environments together and acts in all of them as one batch.

Start reading at `run_episodes`, the only loop that plays episodes. Collecting, `rollouts.EnvFitness` and `agents.evaluate`
use it with different actors (`rollouts.policy.actors.BatchedActor`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from worldmodel import envs
from worldmodel.envs.adapters import is_standard, to_pixels
from worldmodel.envs.choices import ChoiceSpace
from worldmodel.envs.env_checker import describe_error, validate_flag, validate_reward
from worldmodel.rollouts.episode import Episode, validate_action, validate_frame
from worldmodel.rollouts.policy.actors import BatchedActor, PerEnvActor, make_actor
from worldmodel.rollouts.policy.policies import Policy, resolve_policy
from worldmodel.rollouts.state_resets import ResetState, restore


class EpisodeResult(NamedTuple):
    """Result of one episode."""

    episode_return: float
    """Sum of rewards."""
    length: int
    """Number of steps."""
    info: dict[str, Any]
    """The last step's info: numbers, strings and flags only."""
    episode: Episode | None = None
    """The recorded episode, if requested."""
    actions: tuple[Any, ...] = ()
    """Actions of all steps."""


FAILURES = (Exception, SystemExit)
"""What an environment or a policy may raise. SystemExit is included: `sys.exit` there must not end the command."""


class EpisodeError(ValueError):
    """An environment or a policy failed or gave an invalid value; other processes receive a plain ValueError."""

    episodes: Sequence[EpisodeResult | None] = ()
    """Episodes of the same call that had ended, by index; None for the others."""

    def __reduce__(self) -> Any:
        """Pickle as a ValueError with the message alone."""
        return ValueError, self.args


def run_episodes(
    environments: Sequence[gymnasium.Env[Any, Any]],
    actor: BatchedActor,
    seeds: Sequence[int],
    *,
    max_idle_steps: int | None = None,
    max_steps: int | None = None,
    record: bool = False,
    reset_states: Sequence[ResetState] = (),
    episode_indices: Sequence[int] = (),
    on_episode_end: Callable[[], None] | None = None,
) -> list[EpisodeResult]:
    """Play ``len(seeds)`` episodes in ``environments``; a free environment takes the next episode.

    Args:
        environments: Environments with 64x64x3 frames or with vectors, stepped together.
        actor: Chooses the actions.
        seeds: Environment seed of each episode.
        max_idle_steps: Truncate an episode after this number of steps without a positive reward (training only). None:
            never.
        max_steps: Truncate an episode after this number of steps. None: no limit besides the environment's own.
        record: Whether to keep every frame and action (`EpisodeResult.episode`).
        reset_states: State at which each episode starts, for an actor that starts from its memory. Empty: a reset.
        episode_indices: Numbers of the episodes in messages. Empty: their positions.
        on_episode_end: Called at the end of each episode.

    Returns:
        Results in the order of ``seeds``.

    Raises:
        EpisodeError: A reward, frame or action is invalid, or the environment or the policy raises an exception. The
            message names the episode, its seed, its step and the code location.
    """
    episodes: list[EpisodeResult | None] = [None] * len(seeds)
    pending = list(range(len(seeds)))[::-1]
    slots = [_EnvSlot(number, env, record) for number, env in enumerate(environments[: len(seeds)])]

    def reset(slot: _EnvSlot) -> None:
        index = pending.pop()
        name = f"episode {episode_indices[index] if episode_indices else index} (environment seed {seeds[index]})"
        slot.reset(actor, index, seeds[index], reset_states[index] if reset_states else None, name)

    try:
        for slot in slots:
            reset(slot)
        while slots:
            try:
                actions = actor.act(np.stack([slot.frame for slot in slots]), [slot.index for slot in slots])
            except FAILURES as error:
                if isinstance(actor, PerEnvActor) and not isinstance(error, MemoryError):  # a user's policy
                    raise slots[0].episode_error(f"step {slots[0].length + 1}, the policy", error) from error
                raise
            active = []
            for slot, action in zip(slots, actions, strict=True):
                if slot.step(action, max_idle_steps, max_steps):
                    episodes[slot.episode_index] = slot.result()
                    if on_episode_end is not None:
                        on_episode_end()
                    if not pending:
                        continue
                    reset(slot)
                active.append(slot)
            slots = active
    except EpisodeError as error:
        error.episodes = episodes
        raise
    return [episode for episode in episodes if episode is not None]


class _EnvSlot:
    """An environment and its current episode."""

    def __init__(self, index: int, env: gymnasium.Env[Any, Any], record: bool) -> None:
        self.index, self.env, self.record = index, env, record
        kind, self.size = envs.action_kind(env.action_space)
        self.discrete = kind == "discrete"
        self.choices = env.action_space if isinstance(env.action_space, ChoiceSpace) else None
        space = env.observation_space
        self.shape = tuple(space.shape or ())

    def reset(
        self, actor: BatchedActor, episode_index: int, seed: int, reset_state: ResetState | None, name: str
    ) -> None:
        self.episode_index, self.seed, self.episode_return, self.length, self.idle_steps = (
            episode_index,
            seed,
            0.0,
            0,
            0,
        )
        self.name = name
        self.info: dict[str, Any] = {}
        try:
            actor.reset(self.index, episode_index)
            frame = self.env.reset(seed=seed)[0] if reset_state is None else restore(self.env, reset_state, seed)
            self.frame = validate_frame(frame, self.shape)
        except MemoryError:
            raise
        except FAILURES as error:
            raise self.episode_error("reset", error) from error
        self.frames, self.actions, self.rewards = [self.frame], list[Any](), list[float]()

    def step(self, action: Any, max_idle_steps: int | None, max_steps: int | None) -> bool:
        """Take a step; return whether the episode is over."""
        try:
            action = validate_action(action, self.discrete, self.size)
            action = action if self.choices is None else self.choices.round(action)
            frame, raw_reward, terminated, truncated, self.info = self.env.step(action)
            self.frame, reward = validate_frame(frame, self.shape), validate_reward(raw_reward)
            validate_flag("terminated", terminated)
            validate_flag("truncated", truncated)
        except MemoryError:
            raise
        except FAILURES as error:
            raise self.episode_error(f"step {self.length + 1}", error) from error
        self.episode_return += reward
        self.length += 1
        self.idle_steps = 0 if reward > 0 else self.idle_steps + 1
        cut = (max_idle_steps is not None and self.idle_steps >= max_idle_steps) or (
            max_steps is not None and self.length >= max_steps
        )
        self.terminated = bool(terminated)
        self.truncated = bool(truncated) or (cut and not terminated)
        self.actions.append(action)
        if self.record:
            self.frames.append(self.frame)
            self.rewards.append(reward)
        return self.terminated or self.truncated

    def episode_error(self, when: str, error: BaseException) -> EpisodeError:
        """Return the error for a failure of the environment or the policy."""
        return EpisodeError(f"{self.name}, {when}: {describe_error(error)}")

    def result(self) -> EpisodeResult:
        plain = {key: value for key, value in self.info.items() if isinstance(value, bool | int | float | str)}
        return EpisodeResult(
            self.episode_return, self.length, plain, self._episode() if self.record else None, tuple(self.actions)
        )

    def _episode(self) -> Episode:
        kind = np.int64 if isinstance(self.env.action_space, gymnasium.spaces.Discrete) else np.float32
        frames, actions = np.stack(self.frames), np.asarray(self.actions, kind)
        if kind is np.float32:
            actions = actions.clip(-1, 1)  # the environment's adapter clips, too
        rewards = np.asarray(self.rewards, np.float32)
        return Episode(frames, actions, rewards, self.terminated, self.truncated, self.seed)


def play(
    env: gymnasium.Env[Any, Any], policy: Policy | str, seed: int, index: int = 0, max_steps: int | None = None
) -> Episode:
    """Play one episode; the same environment, policy and seed give the same episode.

    Args:
        env: Environment (`envs.make`); others are wrapped for 64x64x3 frames (`envs.adapters.to_pixels`).
        policy: Policy or its name (`rollouts.policy.policies`).
        seed: Seed of the environment and, in a separate random stream, of the policy.
        index: Index of the episode in a store.
        max_steps: Truncate the episode after this number of steps. None: no limit besides the environment's own.

    Raises:
        ValueError: The environment renders no pixels, or gives an invalid value.
    """
    env = env if is_standard(env) else to_pixels(env)
    actor = make_actor(resolve_policy(policy), env.action_space, [seed])
    episode = run_episodes([env], actor, [seed], max_steps=max_steps, record=True)[0].episode
    assert episode is not None
    return episode.at(index)
