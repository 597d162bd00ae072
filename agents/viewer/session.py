"""The dream of one visitor, with its controller, the real game beside it, rewinding, films and recording.

Start reading at `Session.advance`. `agents.viewer.server` transports the messages and the frames.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Generator, Tensor

from worldmodel import WorldModel
from worldmodel.agents.analysis import video
from worldmodel.agents.viewer.messages import validated
from worldmodel.agents.viewer.recorder import Recorder, Takes
from worldmodel.imagination import imagine, sample_noise
from worldmodel.rng import Stream
from worldmodel.rollouts import pictures
from worldmodel.rollouts.episode import training_seeds
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import EncodedEpisodes, sample_start_states
from worldmodel.world_model import WorldState

PAGE = Path(__file__).parent / "page"
"""Path of the page's files."""
PAST = 900
"""Largest number of steps that can be rewound."""
FILM = 1800
"""Largest number of frames of a recording."""
WARM_UP = 40
"""Number of steps in the real game before a dream beside it starts."""
BURN_IN = 32
"""Number of stored steps that the memory processes before any other dream starts."""
REST = 1.5
"""Seconds between the end of a dream and the next dream."""
TEMPERATURES = (0.05, 3.0)
"""Lowest and highest temperature."""
SPEEDS = (1.0, 60.0)
"""Lowest and highest speed, in steps per second."""
YOU = "you"
"""Name of the visitor in the list of controllers."""


@dataclass(frozen=True)
class Scene:
    """The world model, start states, controls and real game that all visitors share."""

    title: str
    world: WorldModel
    start_states: EncodedEpisodes | Tensor
    controls: dict[str, Any]
    controllers: dict[str, Controller] = field(default_factory=dict)
    """Controllers that a visitor can select, by name."""
    make_env: Callable[[], gymnasium.Env[Any, Any]] | None = None
    """Factory of the real environment. None: there is none."""
    speed: float = 30.0
    """Speed of the real game, in steps per second."""
    notes: tuple[str, ...] = ()
    """Sentences about the fidelity of the dream."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of `envs.make` of the real environment."""
    recorder: Recorder | None = None
    """Records the episodes that visitors play. None: nothing is recorded."""


class Frame(NamedTuple):
    """Images and numbers of one step, for the page."""

    facts: dict[str, Any]
    """Step, reward, return and settings of the session."""
    dream: np.ndarray
    """Frame of the dream, uint8 (64, 64, 3)."""
    reality: np.ndarray | None
    """Frame of the real game, uint8 (64, 64, 3). None: it is not shown."""


class _RewindPoint(NamedTuple):
    """A past step of the dream, for rewinding."""

    state: WorldState
    facts: dict[str, Any]
    dream: np.ndarray


class Session:
    """A dream that one visitor controls; it is paused at first.

    Args:
        scene: Scene.
        seed: Seed of the start states and of all noise.
    """

    def __init__(self, scene: Scene, seed: int = 0) -> None:
        self.scene = scene
        self.rng = np.random.default_rng(seed)
        self.generator = Generator(scene.world.device)
        self.temperature, self.controller, self.paused = 1.0, YOU, True
        self.speed = float(np.clip(scene.speed, *SPEEDS))
        self.action = self._neutral_action()
        self.film: list[np.ndarray] | None = None
        """Recorded frames. None: nothing was recorded."""
        self.with_reality = self._is_recording = self._closed = self._restart_requested = False
        self._env: gymnasium.Env[Any, Any] | None = None
        self.dream: np.ndarray
        self._observation: np.ndarray | None = None  # of the real game
        self._takes = Takes(scene.recorder)
        self._inbox: deque[dict[str, Any]] = deque(maxlen=256)
        self._lock = threading.Lock()  # serializes `advance`, `recording` and `close`
        self._has_sent_frame = False
        self._restart()

    def receive(self, message: Any) -> None:
        """Queue a message of the page for the next call of `advance`.

        Raises:
            ValueError: The message is invalid.
        """
        self._inbox.append(validated(message, self.scene.world.action_dim, (YOU, *self.scene.controllers)))

    def advance(self) -> Frame | None:
        """Apply the queued messages, and take a step unless the dream is paused or over; None: nothing has changed."""
        with self._lock, torch.inference_mode():
            if self._closed:  # the session was closed while this thread waited for the lock
                return None
            changed, single = not self._has_sent_frame, False
            self._has_sent_frame = True
            self._restart_requested = False
            while self._inbox:
                message = self._inbox.popleft()
                single = single or message["type"] == "step"
                changed = self._apply(message) or changed
            if self._restart_requested:  # once, however many messages ask for it: it may play the real game
                self._restart_as_requested()
            if self._is_over() and not self.paused:
                self._steps_since_end += 1
                if self._steps_since_end > REST * self.speed:
                    self._restart()
                    changed = True
            elif single or not self.paused:
                self._step()
                changed = True
            if not changed:
                return None
            self.facts |= {
                "past": len(self.past),
                "controller": self.controller,
                "paused": self.paused,
                "speed": self.speed,
            }
            self.facts |= {"temperature": self.temperature, "recording": self._is_recording}
            self.facts["film"] = 0 if self.film is None else len(self.film)
            recorder = self.scene.recorder
            self.facts["rollouts"] = recorder and {"episodes": recorder.episodes, "error": recorder.error}
            return Frame(dict(self.facts), self.dream, self.reality)

    def recording(self) -> bytes:
        """Return the recording as MP4, with the real game beside the dream if all frames have it.

        Raises:
            ValueError: Nothing was recorded.
        """
        with self._lock:
            if not self.film:
                raise ValueError("nothing was recorded")
            width = min(frame.shape[1] for frame in self.film)
            frames = np.stack([frame[:, :width] for frame in self.film])
        return video.mp4(pictures.enlarge(frames), max(1, round(self.speed)))

    def close(self) -> None:
        """Close the real environment and free the memory."""
        with self._lock:
            self._closed = True
            self._takes.end()
            if self._env is not None:
                self._env.close()
                self._env = None
            self.past.clear()
            self.film = None

    def _apply(self, message: dict[str, Any]) -> bool:
        """Apply a message; returns whether the page must be updated."""
        kind, value = message["type"], message["value"]
        if kind == "action":
            self.action = self._model_action(torch.tensor([value], dtype=torch.float32))
            return False
        if kind == "temperature":
            self.temperature = float(np.clip(value, *TEMPERATURES))
        elif kind == "speed":
            self.speed = float(np.clip(value, *SPEEDS))
        elif kind == "controller":
            self.controller = value
            if value != YOU:
                self._takes.end()
        elif kind == "pause":
            self.paused = value
        elif kind == "restart":
            self._restart_requested = True
        elif kind == "rewind":
            self._rewind(int(np.clip(value, 1, PAST)))
        elif kind == "reality":
            self.with_reality = value and self.scene.make_env is not None
            self._restart_requested = True
        elif kind == "record":
            self._is_recording = value
            if value:
                self.film = []
                self._record_frame()
        return True

    def _restart_as_requested(self) -> None:
        """Start another dream, without the real game if it cannot be shown."""
        try:
            self._restart()
        except (ValueError, ImportError) as error:  # the game is not installed
            self.with_reality = False
            self._restart()
            self.facts["notice"] = f"The real game cannot be shown: {error}"

    def _restart(self) -> None:
        """Start a dream from another start state."""
        self._takes.end()
        self.past: deque[_RewindPoint] = deque(maxlen=PAST)
        self._steps_since_end = 0
        self.generator.manual_seed(int(self.rng.integers(2**62)))
        self.reality: np.ndarray | None = None
        real: dict[str, Any] | None = None
        if self.with_reality:
            self.state = self._play_warm_up()
            real = {"reward": 0.0, "total": 0.0, "over": False}
        else:
            self.state = sample_start_states(self.scene.world, self.scene.start_states, 1, self.rng, BURN_IN)
        self.facts: dict[str, Any] = {"step": 0, "reward": 0.0, "total": 0.0, "termination": 0.0, "over": False}
        self.facts |= {"weights": [], "action": self._neutral_action()[0].tolist(), "real": real}
        self._decode_frame()

    def _play_warm_up(self) -> WorldState:
        """Play `WARM_UP` steps of the real game; returns the state after them, from which the dream starts.

        A game that is recorded has no warm-up: the visitor plays whole episodes.
        """
        world = self.scene.world
        if self._env is None:
            assert self.scene.make_env is not None
            self._env = self.scene.make_env()
        frame, _ = self._env.reset(seed=training_seeds(int(self.rng.integers(2**31)), Stream.ENV_SEEDS)[0])
        state, action = WorldState(self._encode(frame), world.initial(1)), self._neutral_action()
        controller = next(iter(self.scene.controllers.values()), None)
        for number in range(0 if self.scene.recorder else WARM_UP):
            if controller is not None:
                action = world.squash(controller(state.controller_inputs))
            elif number % 4 == 0:
                action = self._model_action(torch.from_numpy(self.rng.normal(size=action.shape).astype(np.float32)))
            memory = world.observe(state, state.latent, action)
            frame, _, terminated, truncated, _ = self._env.step(self._env_action(action))
            if terminated or truncated:
                frame, _ = self._env.reset()
                memory = world.initial(1)
            state = WorldState(self._encode(frame), memory)
        self._observation, self.reality = frame, world.draw_observations(frame[None])[0]
        return state

    def _is_over(self) -> bool:
        """Whether the dream is over; not while a visitor goes on in the real game beside it."""
        real = self.facts["real"]
        return self.facts["over"] and (real is None or real["over"] or self.controller != YOU)

    def _step(self) -> None:
        """Take a step of the dream, and one of the real game if it is shown; each until it is over."""
        facts = self.facts
        if not facts["over"]:
            facts = self._dream_step()
        if facts["real"] is not None and not facts["real"]["over"]:
            facts = facts | self._game_step(facts["real"]["total"])
        self.facts = facts
        self._record_frame()

    def _dream_step(self) -> dict[str, Any]:
        """Take a step of the dream; returns the new facts."""
        world, facts, before = self.scene.world, dict(self.facts), self._dream_observation()
        self.past.append(_RewindPoint(self.state, self.facts, self.dream))
        noise = sample_noise(world, 1, self.generator)
        self.action, step, self.state, _ = next(imagine(world, self.state, self._policy, noise, self.temperature))
        reward, over = float(step.reward), bool(step.terminated)
        density = world.memory.density
        weights = density.distribution(density.features(self.state.memory)).weights[0].tolist()
        facts |= {"step": facts["step"] + 1, "reward": reward, "total": facts["total"] + reward}
        facts |= {"termination": float(step.termination), "over": over}
        facts |= {"weights": weights, "action": self.action[0].tolist()}
        self.dream = world.draw(self.state.latent)[0]
        if self.controller == YOU:
            self._takes.add("dream", before, self._env_action(self.action), reward, self._dream_observation(), over)
        return facts

    def _game_step(self, total: float) -> dict[str, Any]:
        """Take a step of the real game; returns the facts that change."""
        assert self._env is not None and self._observation is not None
        before = self._observation
        action = self._env_action(self.action)
        try:
            frame, reward, terminated, truncated, _ = self._env.step(action)
        except Exception as error:
            self._takes.rewind(0)  # it ends the episode of the game
            ended = {"reward": 0.0, "total": total, "over": True}
            return {"real": ended, "notice": f"The real game failed: {error}"}
        self._observation, self.reality = frame, self.scene.world.draw_observations(frame[None])[0]
        if self.controller == YOU:
            self._takes.add("game", before, action, float(reward), frame, bool(terminated), bool(truncated))
        reward = float(reward)
        return {"real": {"reward": reward, "total": total + reward, "over": bool(terminated or truncated)}}

    def _dream_observation(self) -> np.ndarray:
        """Return the dream's current observation: its frame, or its vector."""
        world = self.scene.world
        return self.dream if self.dream.shape == world.observation_shape else world.decode(self.state.latent)[0]

    def _policy(self, state: WorldState) -> Tensor:
        """Return the action of the selected controller, or the visitor's."""
        controller = self.scene.controllers.get(self.controller)
        return self.action if controller is None else self.scene.world.squash(controller(state.controller_inputs))

    def _rewind(self, steps: int) -> None:
        """Go back by a number of steps in the dream, and hide the real game, which cannot be rewound."""
        snapshot, before = None, len(self.past)
        while self.past and steps:
            snapshot, steps = self.past.pop(), steps - 1
        self._takes.rewind(before - len(self.past))
        if snapshot is not None:
            self.state, self.facts, self.dream = snapshot.state, dict(snapshot.facts), snapshot.dream
            self.facts["real"], self.reality = None, None

    def _decode_frame(self) -> None:
        """Decode the frame of the current state, and record it."""
        self.dream = self.scene.world.draw(self.state.latent)[0]
        self._record_frame()

    def _record_frame(self) -> None:
        """Append the current frame to the recording, if one is running."""
        if self._is_recording and self.film is not None and len(self.film) < FILM:
            frames = [self.dream] if self.reality is None else [self.dream, self.reality]
            self.film.append(np.concatenate(frames, axis=1))

    def _encode(self, frame: np.ndarray) -> Tensor:
        """Return the latent (1, latent) of a real frame."""
        return self.scene.world.encode(torch.from_numpy(np.asarray(frame))[None])

    def _neutral_action(self) -> Tensor:
        """Return the action without any pressed key, (1, actions)."""
        controls = self.scene.controls
        if controls["kind"] == "box":
            return self._model_action(torch.tensor([[float(axis["rest"]) for axis in controls["axes"]]]))
        fewest = min(range(len(controls["choices"])), key=lambda number: len(controls["choices"][number]["keys"]))
        return torch.eye(len(controls["choices"]))[fewest][None]

    def _model_action(self, action: Tensor) -> Tensor:
        """Return an action as the memory's input: in [-1, 1], or one-hot."""
        world = self.scene.world
        return world.squash(action) if world.discrete or world.nvec else action.clamp(-1, 1)

    def _env_action(self, action: Tensor) -> Any:
        """Return an action of the dream as an action of the environment."""
        return int(action[0].argmax()) if self.scene.world.discrete else action[0].cpu().numpy()
