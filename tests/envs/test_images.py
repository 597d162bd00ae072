"""Image observations of every layout and type show the picture that they hold, whatever its content."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldmodel import VAE, envs, rollouts
from worldmodel.envs.adapters import frame_source, to_pixels
from worldmodel.envs.images import ImageFormat, is_frame_shape
from worldmodel.envs.wrappers import resize_frame

PICTURE = np.random.default_rng(1).integers(0, 256, (48, 80, 3), np.uint8)
GREY = PICTURE[..., :1]
ALPHA = np.concatenate([PICTURE, np.full((48, 80, 1), 255, np.uint8)], axis=2)
STACK = np.random.default_rng(2).integers(0, 256, (48, 80, 4, 3), np.uint8)
GREYS = STACK[..., 0]


class Shows(gymnasium.Env):
    """Shows one observation, whatever happens."""

    metadata = {"render_modes": []}
    action_space = spaces.Discrete(2)

    def __init__(self, space=None, observation=None):
        self.observation_space, self.observation, self.now = space, observation, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.observation, {}

    def step(self, action):
        self.now += 1
        return self.observation, 1.0, self.now >= 4, False, {}


def box(image, low=0, high=255):
    return Shows(spaces.Box(low, high, image.shape, image.dtype), image)


def first(env, **view):
    return to_pixels(env, **view).reset(seed=1)[0]


LAYOUTS = {
    "HWC": (PICTURE, PICTURE),
    "HW": (GREY[..., 0], GREY.repeat(3, axis=2)),
    "HW1": (GREY, GREY.repeat(3, axis=2)),
    "RGBA": (ALPHA, PICTURE),
    "CHW": (np.moveaxis(PICTURE, -1, 0), PICTURE),
    "1HW": (GREY[None, ..., 0], GREY.repeat(3, axis=2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_shows_the_same_picture(layout):
    image, expected = LAYOUTS[layout]
    np.testing.assert_array_equal(first(box(image)), resize_frame(expected))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.float32, 0, 1),
        (np.float64, 0, 255),
        (np.float32, -1, 1),
        (np.int64, 0, 255),
        (np.float16, 0, 1),
        (np.int8, 0, 51),
    ],
)
def test_bounds_become_0_and_255(dtype, low, high):
    """A dark image stays dark: its numbers do not decide."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    picture = np.random.default_rng(3).choice(levels, (64, 64, 3))
    image = low + picture.astype(np.float64) / 255 * (high - low)
    image = np.rint(image).astype(dtype) if np.issubdtype(dtype, np.integer) else image.astype(dtype)
    np.testing.assert_array_equal(first(box(image, low, high)), picture)
    dark = np.full_like(image, low)
    assert not first(box(dark, low, high)).any()


STACKS = {
    "HWK": (GREYS, GREYS[..., None].repeat(3, axis=3)),
    "KHW": (np.moveaxis(GREYS, 2, 0), GREYS[..., None].repeat(3, axis=3)),
    "HW3K": (STACK.reshape(48, 80, 12), STACK),
    "3KHW": (np.moveaxis(STACK.reshape(48, 80, 12), 2, 0), STACK),
    "KHWC": (np.moveaxis(STACK, 2, 0), STACK),
    "KCHW": (np.moveaxis(STACK, (2, 3), (0, 1)), STACK),
}


@pytest.mark.parametrize("layout", STACKS)
def test_a_stack_keeps_all_frames_the_newest_last(layout):
    image, expected = STACKS[layout]
    env = to_pixels(box(image), frame_stack=4)
    frame = env.reset(seed=1)[0]
    assert env.observation_space.contains(frame)
    for number in range(4):
        np.testing.assert_array_equal(frame[..., 3 * number : 3 * number + 3], resize_frame(expected[:, :, number]))
    with pytest.raises(ValueError, match="frame_stack"):  # not RGBA either
        to_pixels(box(image)).reset(seed=1)


@pytest.mark.parametrize("view", [{"frame_stack": 5}, {"frame_stack": 0}, {"frame_stack": "4"}, {"image_key": "x"}])
def test_other_arguments_are_refused(view):
    with pytest.raises(ValueError, match=next(iter(view))):
        to_pixels(box(GREYS), **view)
    with pytest.raises(ValueError, match=next(iter(view))):
        envs.make("CarRacing", **view)


def test_the_images_of_a_dict_are_found_or_named():
    def env(**images):
        parts = {name: spaces.Box(0, 255, image.shape, np.uint8) for name, image in images.items()}
        return Shows(
            spaces.Dict(parts | {"speed": spaces.Box(-1, 1, (2,))}), images | {"speed": np.zeros(2, np.float32)}
        )

    one, two = env(screen=PICTURE), env(screen=PICTURE, depth=GREY)
    np.testing.assert_array_equal(first(one), resize_frame(PICTURE))
    assert "'speed'" in frame_source(to_pixels(one))
    with pytest.raises(ValueError, match=r"image_key.*'screen'"):
        to_pixels(two)
    np.testing.assert_array_equal(first(two, image_key="depth"), resize_frame(GREY))
    for key in ("speed", "camera"):
        with pytest.raises(ValueError, match="image_key"):
            to_pixels(two, image_key=key)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.1, -0.1])
def test_numbers_outside_of_the_bounds_are_refused(value):
    image = np.zeros((48, 80, 3), np.float32)
    env = to_pixels(box(image, 0, 1))
    env.reset(seed=1)
    image[3, 4, 1] = value
    with pytest.raises(ValueError, match="observation"):
        env.step(0)


@pytest.mark.parametrize(("beyond", "is_rounding"), [(0.0009, True), (0.0011, False)])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-4, 4)])
def test_a_thousandth_of_the_range_beyond_the_bounds_is_rounding(low, high, beyond, is_rounding):
    image = np.full((48, 80, 3), low, np.float32)
    env = to_pixels(box(image, low, high))
    env.reset(seed=1)
    image[:24], image[24:] = high + beyond * (high - low), low - beyond * (high - low)
    if is_rounding:
        assert set(np.unique(env.step(0)[0])) >= {0, 255}
    else:
        with pytest.raises(ValueError, match="observation"):
            env.step(0)


def test_infinite_bounds_are_refused():
    with pytest.raises(ValueError, match="TransformObservation"):
        to_pixels(box(np.zeros((48, 80, 3), np.float32), -np.inf, np.inf))


def test_formats_describe_themselves():
    spaces_ = [(spaces.Box(0, 1, (4, 48, 80), np.float32), 4), (spaces.Box(0, 255, (48, 80), np.uint8), 1)]
    texts = [str(ImageFormat.of(space, count)) for space, count in spaces_]
    assert "4 grey" in texts[0]
    assert "0 to 1" in texts[0]
    assert "grey" in texts[1]


def stacked():
    return box(STACK.reshape(48, 80, 12))


def test_stacks_are_stored_and_encoded_whole(tmp_path):
    store = rollouts.collect(stacked, "uniform", 2, seed=1, out=tmp_path, env_options={"frame_stack": 4})
    assert store.observation_shape == (64, 64, 12)
    read = rollouts.Store(tmp_path).episode(1)
    assert read.frames.shape == (5, 64, 64, 12)
    np.testing.assert_array_equal(read.frames[2], first(stacked(), frame_stack=4))
    vae = VAE(latent_dim=2, base_channels=4, observation_shape=store.observation_shape)
    frames = torch.from_numpy(read.frames)
    loss = vae.loss(frames).value
    loss.backward()
    assert vae.encoder[0].weight.grad.abs().sum(dim=(0, 2, 3)).min() > 0  # every channel
    decoded = vae.to_observations(vae.decode(vae.encode(vae.to_inputs(frames)).loc))
    assert decoded.shape == frames.shape
    assert torch.equal(vae.draw(vae.encode(vae.to_inputs(frames)).loc), decoded[..., -3:])
    with pytest.raises(ValueError, match=r"\(64, 64, 12\)|12"):
        VAE(latent_dim=2).encode(vae.to_inputs(frames))


def test_frames_of_environments_are_those_that_a_vae_encodes():
    """The two layers may not import each other, so each states the sizes and the largest stack."""
    shapes = [(size, size, channels) for size in range(32, 161, 32) for channels in (1, 3, 4, 6, 48, 51)]
    for shape in [*shapes, (64, 96, 3), (64, 64)]:
        try:
            encodes = VAE(latent_dim=1, base_channels=1, observation_shape=shape).observation_shape == shape
        except ValueError:
            encodes = False
        assert encodes == is_frame_shape(shape), shape


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("shape", [(84, 84), (96, 96), (210, 160), (48, 80), (90, 320)])
def test_each_image_of_a_stack_is_resized_as_it_is_alone(shape, size):
    stack = np.random.default_rng(3).integers(0, 256, (*shape, 4, 3), np.uint8)
    resized = resize_frame(stack.reshape(*shape, 12), size=size)
    expected = [resize_frame(stack[:, :, number], size=size) for number in range(4)]
    np.testing.assert_array_equal(resized, np.concatenate(expected, axis=2))


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("shape", [(100, 400), (400, 100), (90, 320), (48, 512), (210, 160)])
def test_no_line_of_an_image_vanishes(shape, size):
    """A white row or column of one pixel brightens the frame, wherever it is."""
    for axis in (0, 1):
        for place in range(shape[axis]):
            image = np.zeros((*shape, 3), np.uint8)
            np.moveaxis(image, axis, 0)[place] = 255
            assert resize_frame(image, size=size).max() > 10, (axis, place)


def test_the_range_of_bytes_in_a_larger_space_is_that_of_the_space():
    image = np.full((20, 32), 200, np.uint8)
    space = spaces.Box(0, 1000, (20, 32), np.uint16)
    assert (ImageFormat.of(space).to_frames(image) == 51).all()


@pytest.mark.parametrize("bounds", [(-1e308, 1e308), (0, 5e-321)])
def test_bounds_whose_width_is_no_number_are_refused(bounds):
    assert ImageFormat.of(spaces.Box(*bounds, (20, 32), np.float64)) is None
