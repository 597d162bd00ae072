"""Environments with one slip each, for `tests.test_env_sweep`; `tests.odd_envs:NAME` is the id of each."""

import gymnasium
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (20, 32, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (4,), np.float32)


class Odd(gymnasium.Env):
    """An environment with images, whose parts are replaced by arguments.

    Args:
        space: Observation space.
        actions: Action space.
        see: Function from the environment to an observation. None: half of the space's range, varied by the step.
        start: Function from the environment to the result of reset. None: as Gymnasium demands.
        after: Function from the environment to the result of step. None: as Gymnasium demands.
        draw: Function from the environment to what `render` returns. None: there is no rendering.
        length: Number of steps of an episode.
        close: Function that is called by close.
        render_mode: Render mode.
    """

    def __init__(
        self,
        space=IMAGE,
        actions=None,
        see=None,
        start=None,
        after=None,
        draw=None,
        length=4,
        close=None,
        render_mode=None,
    ):
        self.metadata = {"render_modes": ["rgb_array"] if draw else []}
        self.observation_space, self.action_space = space, actions or spaces.Discrete(3)
        self.see, self.start, self.after, self.draw = see or natural, start, after, draw
        self.length, self.at_close, self.render_mode, self.now = length, close, render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return (self.see(self), {}) if self.start is None else self.start(self)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.now += 1
        if self.after is not None:
            return self.after(self)
        return self.see(self), 1.0, self.now >= self.length, False, {}

    def close(self):
        if self.at_close is not None:
            self.at_close()


def natural(env, space=None):
    """An observation of a space that changes with each step."""
    space = space or env.observation_space
    if isinstance(space, spaces.Dict):
        return {name: natural(env, part) for name, part in space.items()}
    if isinstance(space, spaces.Box) and np.isfinite([space.low, space.high]).all():
        low, high = space.low.astype(float), space.high.astype(float)
        return (low + (high - low) * (0.2 + 0.1 * (env.now % 5))).astype(space.dtype)
    space.seed(env.now)
    return space.sample()


def picture(env, *shape, dtype=np.uint8):
    return np.full(shape or (40, 60, 3), 10 * env.now % 200, dtype)


def opaque(env):
    return np.concatenate([picture(env, 20, 32, 3), np.full((20, 32, 1), 255, np.uint8)], axis=2)


def box(*shape, dtype=np.uint8, low=0, high=255):
    return spaces.Box(low, high, shape, dtype)


def result(reward=1.0, terminated=False, truncated=False, info=None, see=None):
    """A function that returns a step with some of its values replaced; the fourth step ends the episode."""

    def after(env):
        ended = type(terminated)(env.now >= env.length) if isinstance(terminated, bool | np.bool_ | int) else terminated
        return (see or natural)(env), reward, ended, truncated, {} if info is None else info

    return after


def failing(error, steps=2):
    """A function that raises an error at some step."""

    def fail(env=None):
        if env is None or env.now >= steps or steps == 0:
            raise error
        return natural(env), 1.0, False, False, {}

    return fail


def late(value, steps=2):
    """An observation function that gives another value from some step on."""
    return lambda env: natural(env) if env.now < steps else value


class Drawn(Odd):
    def render(self):
        return self.draw(self)


class Seedless(Odd):
    def reset(self):
        return natural(self), {}


class Unset(Drawn):
    """Does not keep its render mode."""

    def __init__(self, render_mode=None):
        super().__init__(VECTOR, draw=picture)


class Own(Odd):
    """Has an option named seed, prints, and draws global random numbers."""

    def __init__(self, seed=0, render_mode=None):
        super().__init__(actions=spaces.Discrete(2 + seed))

    def step(self, action):
        print("a step")
        np.random.seed(1)
        return super().step(action)


class Unpicklable(Odd):
    def __init__(self, render_mode=None):
        super().__init__()
        self.handle = open(__file__, encoding="utf-8")  # noqa: SIM115
        self.function = lambda: None

    def close(self):
        self.handle.close()


class Buffered(Odd):
    """Redraws one array, and changes the action that it gets."""

    def __init__(self, render_mode=None):
        super().__init__(actions=spaces.Box(-1, 1, (2,), np.float32), see=self.redraw)
        self.buffer = np.zeros((20, 32, 3), np.uint8)

    def redraw(self, env):
        self.buffer[:] = self.now
        return self.buffer

    def step(self, action):
        action *= 0
        return super().step(action)


class Spaceless(gymnasium.Env):
    observation_space = IMAGE

    def __init__(self, render_mode=None):
        pass


class Bare:
    """Not an environment."""

    def __init__(self, render_mode=None):
        pass


class Broken(Odd):
    def __init__(self, render_mode=None):
        raise RuntimeError("no licence")


TWO = spaces.Dict({"left": IMAGE, "right": IMAGE, "speed": VECTOR})
ONE = spaces.Dict({"screen": IMAGE, "speed": VECTOR})
NONE = spaces.Dict({"gear": spaces.Discrete(3), "speed": VECTOR})
PAIR = spaces.Tuple([VECTOR, spaces.Discrete(2)])
LOW, HIGH = np.zeros((20, 32, 3), np.float32), np.ones((20, 32, 3), np.float32)
HIGH[:10] = 2
NAN = np.full((20, 32, 3), np.nan, np.float32)
FLOATS = box(20, 32, 3, dtype=np.float32, high=1)

WORKS = ""
"""The expectation of an environment that works; of others it is a pattern that the refusal names."""
RESIZED = "observation"

CASES = {  # name: (function that makes it, or its arguments; expectation; options of `envs.make`)
    # frames
    "rgb": ({}, WORKS),
    "grey": ({"space": box(20, 32)}, WORKS),
    "one-channel": ({"space": box(20, 32, 1)}, WORKS),
    "rgba": ({"space": box(20, 32, 4), "see": opaque}, WORKS),
    "channels-first": ({"space": box(3, 20, 32)}, WORKS),
    "one-channel-first": ({"space": box(1, 20, 32)}, WORKS),
    "floats-to-1": ({"space": FLOATS}, WORKS),
    "floats-to-255": ({"space": box(20, 32, 3, dtype=np.float32)}, WORKS),
    "floats-from-minus-1": ({"space": box(20, 32, dtype=np.float64, low=-1, high=1)}, WORKS),
    "half-floats": ({"space": box(20, 32, 3, dtype=np.float16, high=1)}, WORKS),
    "bounds-of-each-pixel": ({"space": spaces.Box(LOW, HIGH)}, WORKS),
    "integers": ({"space": box(20, 32, 3, dtype=np.int32)}, WORKS),
    "large": ({"space": box(300, 400, 3)}, WORKS),
    "narrow": ({"space": box(16, 200, 3)}, WORKS),
    "standard-size": ({"space": box(64, 64, 3)}, WORKS),
    "stack": ({"space": box(20, 32, 4)}, WORKS, {"frame_stack": 4}),
    "stack-of-colours": ({"space": box(20, 32, 12)}, WORKS, {"frame_stack": 4}),
    "stack-first": ({"space": box(2, 20, 32, 3)}, WORKS, {"frame_stack": 2}),
    "atari-stack": ({"space": box(4, 84, 84)}, WORKS, {"frame_stack": 4}),
    "large-stack-of-colours": ({"space": box(3, 210, 160, 3)}, WORKS, {"frame_stack": 3, "frame_size": 96}),
    "stack-of-floats": ({"space": box(4, 20, 32, dtype=np.float32, high=1)}, WORKS, {"frame_stack": 4}),
    "frames-of-96": ({}, WORKS, {"frame_size": 96}),
    "stacks-of-128": ({"space": box(4, 20, 32)}, WORKS, {"frame_size": 128, "frame_stack": 4}),
    "frames-of-65": ({}, "frame_size.*96", {"frame_size": 65}),
    "vectors-of-96": ({"space": VECTOR}, "frame_size", {"frame_size": 96, "observation": "vector"}),
    "unnamed-stack": ({"space": box(20, 32, 12)}, "frame_stack"),
    "unnamed-stack-like-rgba": ({"space": box(20, 32, 4)}, "frame_stack"),
    "unnamed-stack-first": ({"space": box(8, 20, 32)}, "frame_stack"),
    "another-stack": ({"space": box(20, 32, 4)}, "frame_stack", {"frame_stack": 3}),
    "infinite-floats": ({"space": box(20, 32, 3, dtype=np.float32, high=np.inf)}, "TransformObservation"),
    "low-bytes": ({"space": box(20, 32, 3, high=10)}, "255"),
    "tiny": ({"space": box(8, 8, 3)}, "16x16"),
    "two-channels": ({"space": box(20, 32, 2)}, "channels"),
    "another-dtype": ({"see": lambda env: np.zeros((20, 32, 3), np.float32)}, "uint8"),
    "later-another-dtype": ({"see": late(np.zeros((20, 32, 3), np.float32))}, "uint8"),
    "nan-frame": ({"space": FLOATS, "see": late(NAN)}, RESIZED),
    "first-frame-nan": ({"space": FLOATS, "see": lambda env: NAN}, "NaN"),
    "brighter-than-its-space": ({"space": FLOATS, "see": late(HIGH)}, "from 0 to 1"),
    "another-size": ({"see": late(np.zeros((24, 32, 3), np.uint8))}, RESIZED),
    "no-frame": ({"see": late(None)}, RESIZED),
    "a-list": ({"see": lambda env: natural(env).tolist()}, "list"),
    # rendering
    "rendered": ({"space": VECTOR, "draw": picture}, WORKS),
    "rendered-in-sizes": ({"space": VECTOR, "draw": lambda env: picture(env, 20 + env.now, 30, 3)}, WORKS),
    "rendered-discrete": ({"space": spaces.Discrete(5), "draw": picture}, WORKS),
    "rendered-text": ({"space": spaces.Text(5), "draw": picture}, WORKS),
    "rendered-dict": ({"space": NONE, "draw": picture}, WORKS),
    "rendered-tuple": ({"space": PAIR, "draw": picture}, WORKS),
    "renders-nothing": ({"space": VECTOR, "draw": lambda env: None}, "render"),
    "renders-a-list": ({"space": VECTOR, "draw": lambda env: [picture(env)]}, "render"),
    "renders-floats": ({"space": VECTOR, "draw": lambda env: picture(env, 20, 32, 3, dtype=np.float32)}, "0 to 255"),
    "renders-channels-first": ({"space": VECTOR, "draw": lambda env: picture(env, 3, 20, 32)}, "moveaxis"),
    "without-rendering": ({"space": VECTOR}, 'observation="vector"'),
    "without-render-mode": (Unset, "self.render_mode"),
    "dict-without-rendering": ({"space": NONE}, "observation"),
    "tuple-without-rendering": ({"space": PAIR}, "observation"),
    "outside-of-its-space": ({"space": VECTOR, "draw": picture, "see": lambda env: np.full(4, 2.0)}, "in its space"),
    # dicts
    "dict": ({"space": ONE}, WORKS),
    "two-images": ({"space": TWO}, "image_key.*'left', 'right'"),
    "two-images-named": ({"space": TWO}, WORKS, {"image_key": "right"}),
    "another-key": ({"space": TWO}, "'left', 'right', 'speed'", {"image_key": "middle"}),
    "key-of-a-vector": ({"space": TWO}, "image_key", {"image_key": "speed"}),
    "key-without-dict": ({}, "image_key", {"image_key": "screen"}),
    "dict-lacks-image": ({"space": ONE, "see": late({"speed": np.zeros(4, np.float32)})}, "'screen'"),
    # vectors
    "vector": ({"space": VECTOR}, WORKS, {"observation": "vector"}),
    "vector-of-a-dict": ({"space": NONE}, WORKS, {"observation": "vector"}),
    "vector-of-a-tuple": ({"space": PAIR}, WORKS, {"observation": "vector"}),
    "vector-of-a-choice": ({"space": spaces.Discrete(6)}, WORKS, {"observation": "vector"}),
    "vector-without-bounds": (
        {"space": box(3, dtype=np.float64, low=-np.inf, high=np.inf)},
        WORKS,
        {"observation": "vector"},
    ),
    "vector-of-text": ({"space": spaces.Text(5)}, WORKS, {"observation": "vector"}),
    "vector-of-a-sequence": ({"space": spaces.Sequence(VECTOR)}, "fixed amount", {"observation": "vector"}),
    "vector-of-images": ({}, 'observation="pixels"', {"observation": "vector"}),
    "nan-vector": ({"space": VECTOR, "see": late(np.full(4, np.nan))}, "finite", {"observation": "vector"}),
    "longer-vector": ({"space": VECTOR, "see": late(np.zeros(5))}, "observation", {"observation": "vector"}),
    # actions
    "discrete-from-5": ({"actions": spaces.Discrete(3, start=5)}, WORKS),
    "discrete-from-below-0": ({"actions": spaces.Discrete(3, start=-4)}, WORKS),
    "one-action": ({"actions": spaces.Discrete(1)}, WORKS),
    "choices": ({"actions": spaces.MultiDiscrete([3, 2, 1], start=[0, 5, -2])}, WORKS),
    "table-of-choices": ({"actions": spaces.MultiDiscrete([[3, 2], [4, 5]])}, WORKS),
    "bits": ({"actions": spaces.MultiBinary(5)}, WORKS),
    "table-of-bits": ({"actions": spaces.MultiBinary((2, 3))}, WORKS),
    "box": ({"actions": spaces.Box(-3, 9, (2,), np.float32)}, WORKS),
    "box-of-doubles": ({"actions": spaces.Box(-3, 9, (2,), np.float64)}, WORKS),
    "table": ({"actions": spaces.Box(-3, 9, (2, 2), np.float32)}, WORKS),
    "number": ({"actions": spaces.Box(-3, 9, (), np.float32)}, WORKS),
    "whole-numbers": ({"actions": spaces.Box(-3, 9, (2,), np.int64)}, WORKS),
    "one-value": ({"actions": spaces.Box(2, 2, (2,), np.float32)}, WORKS),
    "infinite-box": ({"actions": spaces.Box(-np.inf, np.inf, (2,), np.float32)}, "RescaleAction"),
    "half-infinite-box": ({"actions": spaces.Box(0, np.inf, (2,), np.float32)}, "RescaleAction"),
    "infinite-integers": ({"actions": spaces.Box(-np.inf, np.inf, (2,), np.int64)}, "RescaleAction"),
    "dict-of-actions": ({"actions": spaces.Dict({"go": spaces.Discrete(2)})}, "TransformAction"),
    "tuple-of-actions": ({"actions": spaces.Tuple([spaces.Discrete(2)])}, "TransformAction"),
    "text-actions": ({"actions": spaces.Text(5)}, "TransformAction"),
    "empty-box": ({"actions": spaces.Box(-1, 1, (0,), np.float32)}, "actions"),
    "too-many-actions": ({"actions": spaces.Discrete(100_000)}, "65536"),
    "too-many-choices": ({"actions": spaces.MultiDiscrete([2, 100_000])}, "65536"),
    # steps
    "four-values": ({"after": lambda env: (natural(env), 1.0, False, {})}, "terminated"),
    "no-step": ({"after": lambda env: None}, "step"),
    "reset-alone": ({"start": natural}, "info"),
    "reset-without-dict": ({"start": lambda env: (natural(env), None)}, "info"),
    "reset-without-seed": (Seedless, "seed"),
    "reward-int": ({"after": result(reward=3)}, WORKS),
    "reward-array": ({"after": result(reward=np.array([2.5]))}, WORKS),
    "reward-bool": ({"after": result(reward=np.bool_(True))}, WORKS),
    "reward-large": ({"after": result(reward=1e30)}, WORKS),
    "reward-too-large": ({"after": result(reward=1e39)}, "reward"),
    "reward-nan": ({"after": result(reward=float("nan"))}, "reward"),
    "reward-infinite": ({"after": result(reward=-np.inf)}, "reward"),
    "reward-none": ({"after": result(reward=None)}, "reward"),
    "reward-text": ({"after": result(reward="1")}, "reward"),
    "rewards": ({"after": result(reward=np.zeros(2))}, "reward"),
    "flag-numpy": ({"after": result(terminated=np.bool_(False), truncated=np.bool_(False))}, WORKS),
    "flag-int": ({"after": result(terminated=0)}, "terminated"),
    "flag-none": ({"after": result(truncated=None)}, "truncated"),
    "info-none": ({"after": lambda env: (natural(env), 1.0, False, False, None)}, "info"),
    "info-of-anything": ({"after": result(info={"f": lambda: None, 3: np.zeros(3)})}, WORKS),
    # episodes
    "one-step": ({"length": 1}, WORKS),
    "endless": ({"length": 10**9}, WORKS),
    "fails-at-once": ({"start": failing(RuntimeError("no server"), 0)}, "RuntimeError: no server"),
    "fails-in-reset": ({"start": failing(KeyError("x"), 0)}, "KeyError"),
    "fails-in-step": ({"after": failing(ZeroDivisionError("division"))}, r"step 2.*ZeroDivisionError.*odd_envs"),
    "exits-in-step": ({"after": failing(SystemExit(3))}, "SystemExit"),
    "fails-in-close": ({"close": failing(RuntimeError("closed"))}, WORKS),
    "fails-when-made": (Broken, "RuntimeError: no licence"),
    "own-seed-option": (Own, WORKS),
    "unpicklable": (Unpicklable, WORKS),
    "buffered": (Buffered, WORKS),
    "without-action-space": (Spaceless, "action_space"),
    "no-environment": (Bare, "gymnasium.Env"),
}


def make(name, render_mode=None, **options):
    """Make the environment of a case."""
    maker = CASES[name][0]
    if not isinstance(maker, dict):
        return maker(render_mode=render_mode, **options)
    return (Drawn if "draw" in maker else Odd)(**maker, render_mode=render_mode)


def register(name):
    """Register the environment of a case and return its id."""
    gymnasium.register(f"Odd-{name}-v0", entry_point=lambda **given: make(name, **given))
    return f"Odd-{name}-v0"
