"""One visitor's dream: what is in view, who steers, reality beside it, the past to rewind to, and a film being recorded.

Start reading at `Session.advance`. Nothing here knows of networks; `agents.viewer.server` brings the messages.
"""

import math
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

from agents import video
from agents.controller import Controller
from rollouts.episode import training_seeds
from worldmodel import WorldModel
from worldmodel.rng import Stream
from worldmodel.start_states import EncodedEpisodes, sample_start_states
from worldmodel.world_model import WorldState

PAGE = Path(__file__).parent / "page"
"""The files of the page."""
PAST = 900
"""Steps that can be rewound."""
FILM = 1800
"""Frames of the longest recording."""
WARM_UP = 40
"""Real steps before a dream beside reality begins."""
BURN_IN = 32
REST = 1.5
"""Seconds between a dream's end and the next one."""
TEMPERATURES = (0.05, 3.0)
SPEEDS = (1.0, 60.0)
YOU = "you"


@dataclass(frozen=True)
class Scene:
    """What all visitors share."""

    title: str
    world: WorldModel
    starts: EncodedEpisodes | Tensor
    controls: dict[str, Any]
    controllers: dict[str, Controller] = field(default_factory=dict)
    """Controllers that a visitor may hand over to, by name."""
    make_env: Callable[[], gymnasium.Env[Any, Any]] | None = None
    """The real game; None: there is none to show."""
    speed: float = 30.0
    """Steps a second at which the real game runs."""
    notes: tuple[str, ...] = ()
    """Sentences on what is known of this dream."""


class Frame(NamedTuple):
    """What is to be drawn."""

    facts: dict[str, Any]
    """Numbers for the page."""
    dream: np.ndarray
    """(64, 64, 3) bytes."""
    reality: np.ndarray | None


class _Snapshot(NamedTuple):
    state: WorldState
    facts: dict[str, Any]
    dream: np.ndarray


class Session:
    """A dream that one visitor steers. It starts paused, with its first frame to be drawn.

    Args:
        scene: what is dreamed.
        seed: of the moments that dreams begin at and of all that is drawn.
    """

    def __init__(self, scene: Scene, seed: int = 0) -> None:
        self.scene = scene
        self.rng = np.random.default_rng(seed)
        self.generator = Generator(scene.world.device)
        self.temperature, self.controller, self.paused = 1.0, YOU, True
        self.speed = float(np.clip(scene.speed, *SPEEDS))
        self.action = self._still()
        self.film: list[np.ndarray] | None = None
        """The frames recorded so far; None: nothing is recorded."""
        self.with_reality = self._filming = self._closed = False
        self._env: gymnasium.Env[Any, Any] | None = None
        self._inbox: deque[dict[str, Any]] = deque(maxlen=256)
        self._lock = threading.Lock()  # one step at a time; closing waits for it
        self._drawn = False
        self._restart()

    def receive(self, message: Any) -> None:
        """Take a message of the page; it counts from the next step on.

        Raises:
            ValueError: it is not one that a page sends.
        """
        self._inbox.append(self._checked(message))

    def advance(self) -> Frame | None:
        """Do what was asked for, and a step if the dream goes on; None if there is nothing new to draw."""
        with self._lock, torch.inference_mode():
            if self._closed:  # the visitor left while a thread waited for its turn
                return None
            new, single = not self._drawn, False
            self._drawn = True
            while self._inbox:
                message = self._inbox.popleft()
                single = single or message["type"] == "step"
                new = self._obey(message) or new
            if self.facts["over"] and not self.paused:
                self._rested += 1
                if self._rested > REST * self.speed:
                    self._restart()
                    new = True
            elif single or not self.paused:
                self._step()
                new = True
            if not new:
                return None
            self.facts |= {
                "past": len(self.past),
                "controller": self.controller,
                "paused": self.paused,
                "speed": self.speed,
            }
            self.facts |= {"temperature": self.temperature, "recording": self._filming}
            self.facts["film"] = 0 if self.film is None else len(self.film)
            return Frame(dict(self.facts), self.dream, self.reality)

    def recording(self) -> bytes:
        """The recorded film as MP4: the dream, and reality beside it where it was shown.

        Raises:
            ValueError: nothing was recorded.
        """
        with self._lock:
            if not self.film:
                raise ValueError("nothing was recorded")
            width = min(frame.shape[1] for frame in self.film)
            frames = np.stack([frame[:, :width] for frame in self.film])
        return video.mp4(video.enlarge(frames), max(1, round(self.speed)))

    def close(self) -> None:
        """Free everything."""
        with self._lock:
            self._closed = True
            if self._env is not None:
                self._env.close()
                self._env = None
            self.past.clear()
            self.film = None

    def _checked(self, message: Any) -> dict[str, Any]:
        kind = message.get("type") if isinstance(message, dict) else None
        if not isinstance(kind, str) or kind not in _VALUES:
            raise ValueError(f"a message must be an object with a type of {', '.join(_VALUES)}")
        value, expected = message.get("value"), _VALUES[kind]
        if expected is float and not _is_number(value):
            raise ValueError(f"{kind} must have a finite number, got {str(value)[:40]!r}")
        if expected is bool and not isinstance(value, bool):
            raise ValueError(f"{kind} must be true or false, got {value!r}")
        if kind == "action":
            size = self.scene.world.action_dim
            numbers = value if isinstance(value, list) else []
            if len(numbers) != size or not all(map(_is_number, numbers)):
                raise ValueError(f"action must be {size} finite numbers, got {value!r}")
        if kind == "controller" and value not in (YOU, *self.scene.controllers):
            raise ValueError(f"controller must be one of {', '.join((YOU, *self.scene.controllers))}, got {value!r}")
        return {"type": kind, "value": value}

    def _obey(self, message: dict[str, Any]) -> bool:
        """Carry out a message; returns whether there is something new to draw."""
        kind, value = message["type"], message["value"]
        if kind == "action":
            self.action = self._squashed(torch.tensor([value], dtype=torch.float32))
            return False
        if kind == "temperature":
            self.temperature = float(np.clip(value, *TEMPERATURES))
        elif kind == "speed":
            self.speed = float(np.clip(value, *SPEEDS))
        elif kind == "controller":
            self.controller = value
        elif kind == "pause":
            self.paused = value
        elif kind == "restart":
            self._restart()
        elif kind == "rewind":
            self._rewind(int(np.clip(value, 1, PAST)))
        elif kind == "reality":
            self.with_reality = value and self.scene.make_env is not None
            try:
                self._restart()
            except (ValueError, ImportError) as error:  # a game that is not installed here
                self.with_reality = False
                self._restart()
                self.facts["notice"] = f"The real game cannot be shown: {error}"
        elif kind == "record":
            self._filming = value
            if value:
                self.film = []
                self._shoot()
        return True

    def _restart(self) -> None:
        """Wake up at another real moment."""
        self.past: deque[_Snapshot] = deque(maxlen=PAST)
        self._rested = 0
        self.generator.manual_seed(int(self.rng.integers(2**62)))
        self.reality: np.ndarray | None = None
        real: dict[str, Any] | None = None
        if self.with_reality:
            self.state = self._live()
            real = {"reward": 0.0, "total": 0.0, "over": False}
        else:
            self.state = sample_start_states(self.scene.world, self.scene.starts, 1, self.rng, BURN_IN)
        self.facts: dict[str, Any] = {"step": 0, "reward": 0.0, "total": 0.0, "termination": 0.0, "over": False}
        self.facts |= {"weights": [], "action": self._still()[0].tolist(), "real": real}
        self._draw()

    def _live(self) -> WorldState:
        """Play the real game for a while, seeing and remembering: where a dream beside it begins."""
        world = self.scene.world
        if self._env is None:
            assert self.scene.make_env is not None
            self._env = self.scene.make_env()
        frame, _ = self._env.reset(seed=training_seeds(int(self.rng.integers(2**31)), Stream.ENV_SEEDS)[0])
        state, action = world.initial(1).with_latent(self._encode(frame)), self._still()
        controller = next(iter(self.scene.controllers.values()), None)
        for number in range(WARM_UP):
            assert state.latent is not None
            if controller is not None:
                action = world.squash(controller(state.controller_inputs))
            elif number % 4 == 0:
                action = self._squashed(torch.from_numpy(self.rng.normal(size=action.shape).astype(np.float32)))
            before = world.observe(state, state.latent, action)
            frame, _, terminated, truncated, _ = self._env.step(self._real_action(action))
            if terminated or truncated:
                frame, _ = self._env.reset()
                before = world.initial(1)
            state = before.with_latent(self._encode(frame))
        self.reality = frame
        return state

    def _step(self) -> None:
        world, facts = self.scene.world, dict(self.facts)
        self.past.append(_Snapshot(self.state, self.facts, self.dream))
        assert self.state.latent is not None
        controller = self.scene.controllers.get(self.controller)
        if controller is not None:
            self.action = world.squash(controller(self.state.controller_inputs))
        step, self.state = world.imagine(self.state, self.action, self.temperature, self.generator)
        reward = float(step.reward)
        weights = world.memory.density.distribution(self.state.hidden).weights[0].tolist()
        facts |= {"step": facts["step"] + 1, "reward": reward, "total": facts["total"] + reward}
        facts |= {"termination": float(step.termination), "over": bool(step.terminated)}
        facts |= {"weights": weights, "action": self.action[0].tolist()}
        if facts["real"] is not None and not facts["real"]["over"]:
            assert self._env is not None
            frame, real, terminated, truncated, _ = self._env.step(self._real_action(self.action))
            over = bool(terminated or truncated)
            total = facts["real"]["total"] + float(real)
            facts["real"] = {"reward": float(real), "total": total, "over": over}
            self.reality = frame
        self.facts = facts
        self._draw()

    def _rewind(self, steps: int) -> None:
        """Go back in the dream; reality does not come along."""
        moment = None
        while self.past and steps:
            moment, steps = self.past.pop(), steps - 1
        if moment is not None:
            self.state, self.facts, self.dream = moment.state, dict(moment.facts), moment.dream
            self.facts["real"], self.reality = None, None

    def _draw(self) -> None:
        assert self.state.latent is not None
        self.dream = self.scene.world.decode(self.state.latent)[0]
        self._shoot()

    def _shoot(self) -> None:
        """Add what is in view to the film."""
        if self._filming and self.film is not None and len(self.film) < FILM:
            both = [self.dream] if self.reality is None else [self.dream, self.reality]
            self.film.append(np.concatenate(both, axis=1))

    def _encode(self, frame: np.ndarray) -> Tensor:
        return self.scene.world.encode(torch.from_numpy(np.asarray(frame))[None])

    def _still(self) -> Tensor:
        """The action of untouched controls."""
        controls = self.scene.controls
        if controls["kind"] == "box":
            return torch.tensor([[float(axis["rest"]) for axis in controls["axes"]]])
        fewest = min(range(len(controls["choices"])), key=lambda number: len(controls["choices"][number]["keys"]))
        return torch.eye(len(controls["choices"]))[fewest][None]

    def _squashed(self, action: Tensor) -> Tensor:
        """An action as the memory takes it: in [-1, 1], or one-hot."""
        return self.scene.world.squash(action) if self.scene.world.discrete else action.clamp(-1, 1)

    def _real_action(self, action: Tensor) -> Any:
        """An action as the game takes it."""
        return int(action[0].argmax()) if self.scene.world.discrete else action[0].cpu().numpy()


_VALUES: dict[str, type | None] = {
    "action": None,
    "controller": None,
    "pause": bool,
    "reality": bool,
    "record": bool,
    "restart": None,
    "rewind": float,
    "speed": float,
    "step": None,
    "temperature": float,
}
"""Types of message, and what their value must be."""


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
