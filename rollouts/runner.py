"""Lives in lockstep: one process steps several environments and acts for all of them at once.

Start reading at `run_episodes`, the one loop in which episodes are played. Collecting, `rollouts.EnvFitness` and
`agents.evaluate` stand on it; what differs between them is the `BatchedActor` that acts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

import envs
from envs.env_checker import describe_error, validate_flag, validate_reward
from envs.pixels import to_pixels
from rollouts.actors import BatchedActor, PerEnvActor, make_actor
from rollouts.episode import Episode, validate_action, validate_frame
from rollouts.policies import Policy, resolve_policy
from rollouts.state_resets import ResetState, restore


class EpisodeResult(NamedTuple):
    """One episode that was lived."""

    episode_return: float
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


class EpisodeError(ValueError):
    """An environment or a policy did what cannot be recorded; elsewhere it is a plain ValueError."""

    episodes: Sequence[EpisodeResult | None] = ()
    """The lives of the same call that had ended, each in its place."""

    def __reduce__(self) -> Any:
        """Another process gets the words alone."""
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
    """Live ``len(seeds)`` episodes in ``environments``, a free one taking the next episode.

    Args:
        environments: environments with 64x64x3 frames; as many lives go on at once.
        actor: acts.
        seeds: the environment seed of each life.
        max_idle_steps: give up a life after this many steps without a reward above zero (training only); None: never.
        max_steps: cut lives here; None: when the environment says so.
        record: whether to keep every frame and action (`EpisodeResult.episode`).
        reset_states: where each life begins, for a mind that knows what was before; none: where episodes do.
        episode_indices: what the episodes are called in messages; none: their places.
        on_episode_end: called at the end of each episode.

    Raises:
        EpisodeError: a reward is not finite, a frame or an action is none of ours, or the environment or the policy raises
            something; with the episode, its seed, its step, and where in whose code.
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
                if isinstance(actor, PerEnvActor) and not isinstance(error, MemoryError):  # a policy of somebody else's
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
    """One environment and the life that goes on in it."""

    def __init__(self, index: int, env: gymnasium.Env[Any, Any], record: bool) -> None:
        self.index, self.env, self.record = index, env, record
        kind, self.size = envs.action_kind(env.action_space)
        self.discrete = kind == "discrete"

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
            self.frame = validate_frame(frame)
        except MemoryError:
            raise
        except FAILURES as error:
            raise self.episode_error("reset", error) from error
        self.frames, self.actions, self.rewards = [self.frame], list[Any](), list[float]()

    def step(self, action: Any, max_idle_steps: int | None, max_steps: int | None) -> bool:
        """Take a step; say whether the life is over."""
        try:
            action = validate_action(action, self.discrete, self.size)
            frame, earned, terminated, truncated, self.info = self.env.step(action)
            self.frame, reward = validate_frame(frame), validate_reward(earned)
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
        """What to raise where the environment or the policy fails."""
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
    actor = make_actor(resolve_policy(policy), env.action_space, [seed])
    episode = run_episodes([env], actor, [seed], max_steps=max_steps, record=True)[0].episode
    assert episode is not None
    return episode.at(index)
