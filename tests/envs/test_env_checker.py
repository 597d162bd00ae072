"""Third-party environments: violations of the interface raise errors that name the cure."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel import envs
from worldmodel.envs.adapters import to_pixels
from worldmodel.envs.env_checker import validate_reward

IMAGES = spaces.Box(0, 255, (48, 96, 3), np.uint8)
VECTORS = spaces.Box(-1, 1, (4,), np.float32)


class Own(gymnasium.Env):
    """An environment with image observations, whose parts a test replaces."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, space=IMAGES, first=None, second=None, rendered=None):
        self.render_mode = render_mode
        self.observation_space, self.action_space = space, spaces.Box(-2, 2, (1,), np.float32)
        self.first, self.second, self.rendered = first, second, rendered
        self.taken = []

    def observation(self):
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return (self.observation(), {}) if self.first is None else self.first(self)

    def step(self, action):
        self.taken.append(action)
        return (self.observation(), 0.0, False, False, {}) if self.second is None else self.second(self)

    def render(self):
        return self.rendered() if self.rendered else np.full((48, 96, 3), 9, np.uint8)


def frames(*shape, dtype=np.uint8):
    return lambda: np.zeros(shape, dtype)


def limited(env):
    """Wrap an environment as `gymnasium.make` does."""
    return gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(env), 100)


RESETS = {
    "observation alone": (lambda env: env.observation(), "info"),
    "no dict": (lambda env: (env.observation(), None), "info"),
    "nothing": (lambda env: None, "None"),
    "floats": (lambda env: (env.observation().astype(np.float32), {}), "float32"),
    "another shape": (lambda env: (env.observation()[:40], {}), "40"),
    "a list": (lambda env: (env.observation().tolist(), {}), "list"),
}
STEPS = {
    "four": (lambda env: (env.observation(), 0.0, False, {}), "terminated"),
    "None": (lambda env: None, "terminated"),
    "no info": (lambda env: (env.observation(), 0.0, False, False, None), "info"),
    "floats": (lambda env: (env.observation() / 255, 0.0, False, False, {}), "float64"),
    "no flag": (lambda env: (env.observation(), 0.0, None, False, {}), "terminated"),
    "an int": (lambda env: (env.observation(), 0.0, False, 1, {}), "truncated"),
    **{
        f"reward {reward!r}": (lambda env, reward=reward: (env.observation(), reward, False, False, {}), "reward")
        for reward in (np.nan, -np.inf, 1e39, None, "1", 10**400, np.zeros(2))
    },
}


@pytest.mark.parametrize("case", RESETS)
def test_invalid_results_of_reset_are_named(case):
    first, named = RESETS[case]
    env = to_pixels(limited(Own(first=first)))
    with pytest.raises(ValueError, match=named):
        env.reset(seed=1)


@pytest.mark.parametrize("case", STEPS)
def test_invalid_results_of_step_are_named(case):
    second, named = STEPS[case]
    env = to_pixels(limited(Own(second=second)))
    env.reset(seed=1)
    with pytest.raises(ValueError, match=named):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "reward", [1, np.float32(2), np.array(3.0), np.array([4.0]), True, np.int64(5), -3e38, np.longdouble(6)]
)
def test_rewards_may_have_any_numeric_type(reward):
    env = to_pixels(Own(second=lambda env: (env.observation(), reward, np.bool_(False), False, {})))
    env.reset(seed=1)
    _, result, terminated, *_ = env.step(np.zeros(1, np.float32))
    assert type(result) is float
    assert result == float(np.asarray(reward).reshape(()))
    assert terminated is False


@pytest.mark.parametrize(
    ("rendered", "named"),
    [
        (lambda: None, "None"),
        (lambda: [np.zeros((48, 96, 3), np.uint8)], "list"),
        (frames(3, 48, 96), "moveaxis"),
        (frames(48, 96, 3, dtype=np.float32), "float32"),
        (frames(48, 96, 2), "shape"),
        (frames(48, 96, 4), "fourth"),
        (frames(2, 48, 96, 3), "shape"),
        (frames(0, 96, 3), "shape"),
        (lambda: "picture", "str"),
    ],
)
def test_invalid_results_of_render_are_named(rendered, named):
    env = to_pixels(Own("rgb_array", VECTORS, rendered=rendered))
    with pytest.raises(ValueError, match=named):
        env.reset(seed=1)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Box(0, 255, (48, 96, 2), np.uint8), "frame_stack"),
        (spaces.Box(-np.inf, np.inf, (48, 96, 3), np.float32), "finite bounds"),
        (spaces.Box(0, 1, (48, 96), np.uint8), "255"),
        (spaces.Box(0, 255, (4, 48, 96, 3), np.uint8), "frame_stack"),
        (spaces.Dict({"speed": VECTORS}), "render_mode"),
        (VECTORS, "render_mode"),
    ],
)
def test_unsupported_observations_are_rendered_or_refused(space, named):
    """The result is never a black or a garbled frame."""
    with pytest.raises(ValueError, match=named):
        to_pixels(Own(None, space))
    observation = space.sample()
    frame, _ = to_pixels(Own("rgb_array", space, first=lambda env: (observation, {}))).reset(seed=1)
    assert (frame == 9).all()


def test_a_stack_of_grey_frames_is_not_read_as_rgba():
    space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    stack = np.broadcast_to(np.array([10, 20, 30, 40], np.uint8), space.shape)
    with pytest.raises(ValueError, match="stack"):
        to_pixels(Own(space=space, first=lambda env: (stack, {}))).reset(seed=1)
    opaque = stack.copy()
    opaque[..., 3] = 255
    env = to_pixels(Own(space=space, first=lambda env: (opaque, {}), second=lambda env: (stack, 0.0, False, False, {})))
    frame, _ = env.reset(seed=1)
    assert frame[0, 0].tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="stack"):
        env.step(np.zeros(1, np.float32))


def test_frames_are_copied():
    buffer = np.zeros((64, 64, 3), np.uint8)
    space = spaces.Box(0, 255, buffer.shape, np.uint8)

    def redrawn(env):
        buffer[:] += 1
        return buffer, 0.0, False, False, {}

    env = to_pixels(Own(space=space, first=lambda env: (buffer, {}), second=redrawn))
    returned = [env.reset(seed=1)[0], *(env.step(np.zeros(1))[0] for _ in range(3))]
    assert [frame[0, 0, 0] for frame in returned] == [0, 1, 2, 3]


def test_actions_are_mapped_once():
    own = Own()
    env = to_pixels(to_pixels(own))
    env.reset(seed=1)
    env.step(np.array([0.5], np.float32))
    assert own.taken[0].tolist() == [1.0]
    assert to_pixels(env) is env
    wrapped = gymnasium.wrappers.RecordEpisodeStatistics(env)
    assert to_pixels(wrapped) is wrapped
    assert to_pixels(envs.make("CartPole-v1")).unwrapped.spec.id == "CartPole-v1"
    rescaled = to_pixels(gymnasium.wrappers.RescaleAction(env, np.float32(-4), np.float32(4)))
    rescaled.reset(seed=1)
    rescaled.step(np.array([0.5], np.float32))
    assert own.taken[-1].tolist() == [1.0]


class Seedless(Own):
    def reset(self):
        return self.observation(), {}


class Spaceless(gymnasium.Env):
    observation_space = IMAGES


class Bare:
    """Not an environment."""


@pytest.mark.parametrize(
    ("env", "named"),
    [
        (Seedless(), "seed"),
        (Spaceless(), "action_space"),
        (Own(space=None), "observation_space"),
        (Bare(), "gymnasium.Env"),
        (None, "gymnasium.Env"),
        (Own("human", VECTORS), "render_mode"),
    ],
)
def test_missing_parts_of_the_interface_are_named(env, named):
    with pytest.raises(ValueError, match=named):
        to_pixels(env)


@pytest.mark.parametrize("reward", [np.float32("nan"), np.array([np.nan]), np.float16("nan"), np.longdouble("nan")])
def test_nan_rewards_of_any_type_are_shown(reward):
    with pytest.raises(ValueError, match=r"reward\b.*\bnan\b"):
        validate_reward(reward)


def test_spaces_with_many_bounds_are_shown_in_one_line():
    bounds = np.linspace(-9, 9, 500, dtype=np.float32)
    bounds[0] = -np.inf
    for space in (spaces.Box(bounds, np.float32(9)), spaces.Tuple([spaces.Discrete(2)] * 500)):
        env = Own()
        env.action_space = space
        with pytest.raises(ValueError, match="action") as refused:
            to_pixels(env)
        assert len(str(refused.value).splitlines()) == 1
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "first",
    [np.full(4, np.nan), np.full(4, 2.0), np.full(4, -2.0), np.zeros(3), None, "nothing", np.full(4, np.inf)],
    ids=str,
)
def test_an_observation_outside_of_its_space_is_refused(first):
    with pytest.raises(ValueError, match="observation"):
        to_pixels(Own("rgb_array", VECTORS, first=lambda env: (first, {}))).reset(seed=1)
    to_pixels(Own("rgb_array", VECTORS, first=lambda env: (np.ones(4), {}))).reset(seed=1)  # float64 is accepted


def test_bounds_are_compared_in_the_dtype_of_the_space():
    space = spaces.Box(np.float32(-0.1), np.float32(0.1), (4,), np.float32)
    beyond = np.full(4, np.nextafter(float(space.high[0]), 1))  # in double precision; equal in single
    to_pixels(Own("rgb_array", space, first=lambda env: (beyond, {}))).reset(seed=1)


@pytest.mark.parametrize(
    ("space", "first"),
    [
        (spaces.Dict({"speed": VECTORS, "gear": spaces.Discrete(3)}), {"speed": np.full(4, 2.0), "gear": 0}),
        (spaces.Dict({"speed": VECTORS, "gear": spaces.Discrete(3)}), {"speed": np.zeros(4), "gear": 3}),
        (spaces.Dict({"speed": VECTORS}), {"velocity": np.zeros(4)}),
        (spaces.Discrete(3), 3),
    ],
)
def test_invalid_parts_of_an_observation_are_refused(space, first):
    with pytest.raises(ValueError, match="observation"):
        to_pixels(Own("rgb_array", space, first=lambda env: (first, {}))).reset(seed=1)


@pytest.mark.parametrize("shape", [(8, 96, 3), (96, 8, 3), (15, 15)])
def test_a_small_byte_array_is_not_an_image(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    with pytest.raises(ValueError, match="render_mode"):
        to_pixels(Own(None, space))
    assert (to_pixels(Own("rgb_array", space)).reset(seed=1)[0] == 9).all()


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(ValueError, match="reset"):
        to_pixels(Own()).step(np.zeros(1))


@pytest.fixture
def register():
    """Register environments for one test."""
    before = dict(gymnasium.registry)
    yield gymnasium.register
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


class Plain(Own):
    """Observes images and takes no render mode."""

    def __init__(self):
        super().__init__()


class Strict(Own):
    def __init__(self, render_mode=None):
        assert render_mode in (None, "human")
        super().__init__()


class DropsRenderMode(Own):
    def __init__(self, render_mode=None):
        super().__init__(None, VECTORS)


class UndeclaredRenderer(Own):
    """Renders without declaring a render mode."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        super().__init__(render_mode, VECTORS)


class Broken(Own):
    def __init__(self, render_mode=None, level=1):
        raise KeyError("no level")


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("kind", [Plain, Strict, UndeclaredRenderer])
def test_environments_without_render_modes_are_made(register, kind):
    register("Own-v0", entry_point=kind)
    env = envs.make("Own-v0")
    frame, _ = env.reset(seed=1)
    assert frame.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("kind", "named"), [(DropsRenderMode, "self.render_mode"), (Broken, "no level"), (Seedless, "seed")]
)
def test_the_id_of_a_failing_environment_is_named(register, kind, named):
    register("Own-v0", entry_point=kind)
    with pytest.raises(ValueError, match=f"Own-v0.*{named}"):
        envs.make("Own-v0")


def test_modules_of_the_working_directory_are_found(register, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    (tmp_path / "game_in_a_folder.py").write_text(
        "import gymnasium\ngymnasium.register('Cart-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    (tmp_path / "game_that_lacks.py").write_text("import a_module_that_is_not_there\n")
    assert envs.make("game_in_a_folder:Cart-v0").action_space.n == 2
    for id, named in {
        "game_in_a_folder:Car-v0": "Cart-v0",
        "game_that_lacks:Cart-v0": "a_module_that_is_not_there",
        "game_of_nobody:Cart-v0": "game_of_nobody",
    }.items():
        with pytest.raises(ValueError, match=named):
            envs.make(id)


@pytest.mark.parametrize(
    ("id", "extra"), [("ALE/Pong-v5", "games"), ("VizdoomTakeCover-v1", "doom"), ("DoomTakeCover", "doom")]
)
def test_the_extra_of_a_game_is_named_where_it_is_missing(id, extra, monkeypatch, register):
    for name in [name for name in gymnasium.registry if name.startswith(("ALE/", "Vizdoom"))]:
        del gymnasium.registry[name]
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    monkeypatch.setitem(__import__("sys").modules, "vizdoom", None)
    monkeypatch.setitem(__import__("sys").modules, "vizdoom.gymnasium_wrapper", None)
    with pytest.raises(ValueError, match=rf"worldmodel\[{extra}\]"):
        envs.make(id)
