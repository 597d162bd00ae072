"""Importing what was exported gives equal arrays; a killed import leaves nothing that looks whole; bad input is refused."""

import os
import shutil
import signal
import warnings
import zipfile
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete
from gymnasium.wrappers import TransformAction

from tests import toys
from tests.rollouts.formats import FILES, equal_stores, mp4_csv, npz, obs_action, write_files, write_video
from worldmodel import envs, rollouts
from worldmodel.envs.choices import encode_choices
from worldmodel.envs.registration import UNKNOWN_ENV
from worldmodel.envs.wrappers import resize_frame
from worldmodel.rollouts import Store

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
GOOD = {"frames": FRAMES, "actions": np.zeros((5, 2)), "rewards": np.ones(5), "terminated": False}


def switch():
    """A Box of two numbers, or with ``discrete`` three choices; episodes of several lengths, which terminate."""
    return toys.Counter(length=7)


@pytest.fixture(scope="module", params=["box", "discrete"])
def store(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    if request.param == "box":
        return rollouts.collect(switch, rollouts.uniform, 12, seed=1, out=out, episodes_per_shard=5)
    return rollouts.collect("FrozenLake-v1", rollouts.uniform, 12, seed=1, out=out, episodes_per_shard=5)


def assert_equal(episodes, expected):
    for found, wanted in zip(episodes, expected, strict=True):
        np.testing.assert_array_equal(found.frames, wanted.frames)
        np.testing.assert_array_equal(found.actions, wanted.actions)
        np.testing.assert_array_equal(found.rewards, wanted.rewards)
        assert (found.terminated, found.truncated) == (wanted.terminated, wanted.truncated)


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_importing_an_export_gives_equal_arrays(store, write, tmp_path):
    expected = write_files(store, write, tmp_path / "files")
    found = rollouts.import_from(tmp_path / "files", tmp_path / "out")
    assert_equal(found.episodes(), expected)
    assert found.env == UNKNOWN_ENV and found.discrete is store.discrete
    assert found.minari().total_episodes == len(store)


def test_importing_a_minari_dataset_gives_equal_arrays_and_its_environment(store, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    shutil.copytree(store.path, tmp_path / "mine" / "rollouts")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    Store(tmp_path / "mine" / "rollouts").minari()  # its new place
    found = rollouts.import_from("mine/rollouts/minari-v0", tmp_path / "out")
    assert_equal(found.episodes(), store.episodes())
    assert found.action_dim == store.action_dim
    assert found.env == (store.env if store.discrete else UNKNOWN_ENV)  # a function is no id
    with pytest.raises(ValueError, match=r"source .*mine/rollouts/minari-v0"):
        rollouts.import_from("mine/rollout/minari-v0", tmp_path / "other")
    for name in ("../mine/rollouts/minari-v0", "", "a\0b", "mine/rollouts/minari"):
        with pytest.raises(ValueError, match="source|null"):
            rollouts.import_from(name, tmp_path / "other")


@pytest.mark.parametrize(
    "form",
    [lambda e: e, lambda e: (e.frames, e.actions, e.rewards, e.terminated), vars],
    ids=["episode", "tuple", "dictionary"],
)
def test_episodes_are_written_as_they_are(store, form, tmp_path):
    fields = ("frames", "actions", "rewards", "terminated", "truncated")
    given = [form(one) for one in store.episodes()]
    given = [{name: one[name] for name in fields} if isinstance(one, dict) else one for one in given]
    written = rollouts.write(iter(given), tmp_path, num_actions=4 if store.discrete else None)
    assert_equal(written.episodes(), store.episodes())
    assert written.action_dim == store.action_dim and written.env == UNKNOWN_ENV
    assert equal_stores(written.path, store.path)


def test_frames_are_resized_as_the_wrappers_do(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (4, 48, 96, 3), np.uint8)
    written = rollouts.write([(images, [0, 1, 1], np.ones(3), True)], tmp_path / "a", num_actions=5)
    np.testing.assert_array_equal(written.episode(0).frames, [resize_frame(image) for image in images])
    assert written.action_dim == 5 and written.episode(0).terminated
    grey = rollouts.write(
        [(images[..., 0], [0, 1, 1, 0], np.ones(4), True)], tmp_path / "b"
    )  # as many actions as frames
    np.testing.assert_array_equal(grey.episode(0).frames, [resize_frame(image) for image in images[..., 0]])
    assert len(grey.episode(0)) == 3 and grey.action_dim == 2


def test_actions_and_frames_of_a_game_become_those_of_its_wrappers(tmp_path):
    env, game = envs.make("CarRacing"), envs.make("CarRacing", show_hud=True)
    official, rng = game.unwrapped, np.random.default_rng(1)
    frames = [official.reset(seed=1)[0]]
    actions = rng.uniform([-1, 0, 0], 1, (4, 3)).astype(np.float32)
    frames += [official.step(action.astype(np.float64))[0] for action in actions]
    np.savez(tmp_path / "0.npz", obs=frames, action=np.append(actions, actions[:1], axis=0))
    found = rollouts.import_from(tmp_path / "0.npz", tmp_path / "out", "CarRacing").episode(0)
    shown = [env.reset(seed=1)[0], *(env.step(action)[0] for action in found.actions)]
    np.testing.assert_array_equal(found.frames, shown)
    np.testing.assert_allclose([env._game_action(action) for action in found.actions], actions, atol=1e-6)
    np.savez(tmp_path / "1.npz", obs=frames, action=np.full((5, 3), -1.0))  # negative gas
    with pytest.raises(ValueError, match="actions"):
        rollouts.import_from(tmp_path / "1.npz", tmp_path / "other", "CarRacing")


def test_the_missing_rewards_and_ends_of_a_layout_are_given(store, tmp_path):
    write_files(store, obs_action, tmp_path / "files")
    found = rollouts.import_from(tmp_path / "files", tmp_path / "out", reward=1.0, terminated=True)
    assert found.returns == found.lengths and all(episode.terminated for episode in found.episodes())


def test_the_last_row_of_a_full_episode_is_a_time_limit(tmp_path):
    frames, actions = np.zeros((1000, 16, 16, 3), np.uint8), np.zeros((1000, 3))
    ends = {"rewards": np.zeros(1000), "terminals": np.arange(1000) == 999}
    np.savez(tmp_path / "a.npz", observations=frames, actions=actions, **ends)
    episode = rollouts.import_from(tmp_path / "a.npz", tmp_path / "out").episode(0)
    assert episode.truncated and not episode.terminated and len(episode) == 999


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frames": FRAMES.astype(np.float32)}, "frames.*float32"),
        ({"frames": FRAMES[:4]}, "frames.*4"),
        ({"frames": np.full((6, 3), np.nan)}, "frames.*finite"),
        ({"frames": np.zeros((6, 3))}, "frames.*3"),
        ({"frames": FRAMES.tolist()}, "frames"),
        ({"frames": None}, "frames"),
        ({"frames": [FRAMES[0], FRAMES[1][:0]]}, "frames"),
        ({"frames": np.full((6, 64, 64, 4), 10, np.uint8)}, "frames"),
        ({"frames": FRAMES[:1], "actions": [], "rewards": []}, "actions|frames"),
        ({"actions": np.full((5, 2), np.nan)}, "actions.*nan"),
        ({"actions": np.full((5, 2), 1.5)}, "actions.*1.5"),
        ({"actions": np.zeros((5, 2), object)}, "actions.*object"),
        ({"actions": np.full(5, -1)}, "actions.*-1"),
        ({"actions": np.full(5, 2**40)}, "actions"),
        ({"actions": np.full(5, "a")}, "actions"),
        ({"actions": np.zeros((5, 2, 2))}, "actions"),
        ({"actions": np.zeros((5, 0))}, "actions"),
        ({"actions": [[1.0], [1.0, 2.0]]}, "actions"),
        ({"rewards": np.array([0, 0, np.nan, 0, 0])}, "rewards.*nan at 2"),
        ({"rewards": np.array([0, 0, 1e39, 0, 0])}, "rewards.*1e.39"),
        ({"rewards": np.ones((5, 1))}, "rewards"),
        ({"rewards": np.ones(4)}, "rewards.*4"),
        ({"rewards": np.ones(5, complex)}, "rewards.*complex"),
        ({"terminated": "yes"}, "terminated"),
        ({"terminated": [0, 1, 0, 0, 0]}, "terminated.*1"),
        ({"terminated": [0, 1]}, "terminated"),
        ({"terminated": 2}, "terminated.*2"),
        ({"truncated": None}, "truncated"),
        ({"colour": 1}, "colour"),
    ],
)
def test_invalid_episodes_are_refused_by_name(change, named, tmp_path):
    with pytest.raises(ValueError, match=rf"episode 1: .*({named})"):
        rollouts.write([GOOD, GOOD | change], tmp_path)
    assert not (tmp_path / "metadata.json").exists()


def test_other_arguments_of_write_are_refused_by_name(tmp_path):
    discrete = GOOD | {"actions": np.arange(5)}
    for episodes, options, named in (
        ([], {}, "episodes"),
        ([1], {}, "episode 0.*int"),
        ([{}], {}, "frames"),
        ([GOOD, discrete], {}, "episode 1: actions"),
        ([GOOD, GOOD | {"actions": np.zeros((5, 3))}], {}, "episode 1: actions"),
        ([discrete], {"num_actions": 3}, "episode 0: actions"),
        ([GOOD], {"num_actions": 0}, "num_actions"),
        ([GOOD], {"env": "CartPole-v1"}, "episode 0: actions"),
        ([GOOD], {"env": "Nothing-v9"}, "Nothing-v9"),
        ([GOOD], {"env_options": {1: 2}}, "env_options"),
    ):
        with pytest.raises(ValueError, match=named):
            rollouts.write(episodes, tmp_path, **options)
    assert not (tmp_path / "metadata.json").exists()


def test_vectors_are_written(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(6, 3))
    written = rollouts.write([GOOD | {"frames": vectors}], tmp_path)
    np.testing.assert_array_equal(written.episode(0).frames, vectors.astype(np.float32))
    assert written.observation_shape == (3,)


def test_nothing_is_overwritten(tmp_path):
    written = rollouts.write([GOOD], tmp_path / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for folder in ("store", "other"):
        with pytest.raises(ValueError, match="folder"):
            rollouts.write([GOOD, GOOD], tmp_path / folder)
    assert len(Store(written.path)) == 1 and (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_files_without_episodes_are_refused_by_name(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    def good(path, **change):
        np.savez(path, **(GOOD | change))

    def archive(name, content=b"no array"):
        with zipfile.ZipFile(tmp_path / "bad.npz", "w") as file:
            file.writestr(name, content)

    good(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    bad, checked = tmp_path / "bad.npz", []
    for spoil, named in (
        (lambda: good(bad, actions=np.array([Hostile()] * 5)), "pickle"),
        (lambda: bad.write_bytes(whole[: len(whole) // 2]), "arrays"),
        (lambda: bad.write_bytes(b""), "arrays"),
        (lambda: bad.write_bytes(b"\x80\x04."), "arrays"),
        (lambda: archive("../../frames.npy"), "arrays"),
        (lambda: archive("frames.npy"), "arrays"),
        (lambda: np.savez(bad, obs=FRAMES), "obs"),
        (lambda: np.savez(bad, obs=FRAMES, action=np.zeros(6), reward=np.zeros(6)), "reward"),
        (lambda: np.savez(bad, mu=np.zeros(6), logvar=np.zeros(6), action=np.zeros(6)), "mu"),
        (lambda: good(bad, rewards=np.full(5, np.inf)), "rewards"),
    ):
        spoil()
        with pytest.raises(ValueError, match=rf"bad\.npz.*{named}"):
            rollouts.import_from(bad, tmp_path / "out")
        checked.append(named)
    assert len(checked) == 10 and not (tmp_path / "ran").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="source"):
        rollouts.import_from(tmp_path / "empty", tmp_path / "out2")
    assert not (tmp_path / "out" / "metadata.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        (None, "", "actions"),
        ("a.csv", "", "actions"),
        ("a.csv", "action,reward\n1,0\n", "frames"),
        ("a.csv", "action,reward\n1\n", "line 2"),
        ("a.csv", "action\nleft\n", "line 2: action"),
        ("a.csv", "action,reward\n" + "0,nan\n" * 5, "rewards"),
        ("a.csv", "action,speed\n" + "0,1\n" * 5, "speed"),
        ("a.csv", "action\n" + "0\n" * 4 + "\0\n", "action|line"),
        ("a.csv", b"\xff\xfe", "a.csv"),
        ("a.csv", "action,action\n" + "0,1\n" * 5, "once"),
        ("a.csv", "action\n" + "1" * 200_000 + "\n", "a.csv"),
        ("a.jsonl", '{"action": 1}\n{"reward": 1}\n', "row 2"),
        ("a.jsonl", '{"action": [1, 2]}\n{"action": [1]}\n', "action"),
        ("a.jsonl", '{"action": "left"}\n' * 5, "action"),
        ("a.jsonl", '{"action": 1}\n[1]\n', "line 2"),
        ("a.jsonl", "no json\n", "a.jsonl"),
    ],
)
def test_invalid_tables_of_videos_are_refused_by_name(name, content, named, tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES)
    if name:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"a\.mp4.*({named})|({named})"):
        rollouts.import_from(tmp_path, tmp_path / "out")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"a\.mp4"):
        rollouts.import_from(tmp_path / "a.mp4", tmp_path / "other")
    assert not (tmp_path / "out" / "metadata.json").exists()


def killed(call, operation):
    """Call in a process that is killed before file ``operation`` is put in its place; returns whether it was."""
    if (child := os.fork()) == 0:
        replace, left = Path.replace, [operation]

        def replace_or_die(path, target):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return replace(path, target)

        Path.replace = replace_or_die
        try:
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_imports_look_unfinished_and_continue(tmp_path):
    episodes = [GOOD | {"rewards": np.full(5, number)} for number in range(12)]
    source, whole = tmp_path / "source", rollouts.write(episodes, tmp_path / "whole")
    write_files(whole, npz, source)
    reference = rollouts.import_from(source, tmp_path / "reference")
    for name, call in (
        ("import", partial(rollouts.import_from, source)),
        ("write", lambda out: rollouts.write(reference.episodes(), out)),
    ):
        operation = 0
        while killed(partial(call, out := tmp_path / name / str(operation)), operation):
            before = sorted((out / "shards").glob("*.h5"))
            complete = (out / "metadata.json").exists()
            if not complete:
                with pytest.raises(ValueError, match="not a rollout store"):
                    Store(out)
                times = [path.stat().st_mtime_ns for path in before]
                assert call(out).damaged == {}
                if name == "import":
                    assert [path.stat().st_mtime_ns for path in before] == times  # they are kept
            assert equal_stores(out, reference.path)
            assert complete or not list(out.rglob("*.part")) + list(out.rglob(".unfinished.json"))
            operation += 1
        assert operation >= 5, "marker, two shards, metadata, index"


def test_an_unfinished_import_of_another_source_stays(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "0.npz", **GOOD)
        np.savez(tmp_path / name / "1.npz", **GOOD | {"rewards": np.ones(3)})
    with pytest.raises(ValueError, match="rewards"):
        rollouts.import_from(tmp_path / "a", tmp_path / "out")
    with pytest.raises(ValueError, match="another source"):
        rollouts.import_from(tmp_path / "b", tmp_path / "out")
    np.savez(tmp_path / "a" / "1.npz", **GOOD | {"rewards": np.zeros(5)})  # repaired: begins again
    assert rollouts.import_from(tmp_path / "a", tmp_path / "out").returns == [5.0, 0.0]
    assert rollouts.import_from(tmp_path / "a", tmp_path / "out").returns == [5.0, 0.0]  # done already
    with pytest.raises(ValueError, match="holds rollouts"):
        rollouts.import_from(tmp_path / "b", tmp_path / "out")


def test_natural_order(tmp_path):
    for number in (10, 9, 1):
        mp4_csv(
            rollouts.Episode(FRAMES[:2], np.array([[0.5]]), np.array([float(number)]), False, True),
            tmp_path / f"{number}",
        )
    assert rollouts.import_from(tmp_path, tmp_path / "out").returns == [1.0, 9.0, 10.0]


def minari_import(env, options, tmp_path, monkeypatch):
    """A store of an environment, and the same episodes after a way through Minari's index."""
    pytest.importorskip("minari")
    out = tmp_path / "mine" / "rollouts"
    store = rollouts.collect(env, rollouts.uniform, 2, seed=1, out=out, max_steps=4, env_options=options)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store.minari()
    return store, rollouts.import_from("mine/rollouts/minari-v0", tmp_path / "out")


@pytest.mark.parametrize("size", [96, 128])
def test_frames_keep_their_size_through_minari(size, tmp_path, monkeypatch):
    store, found = minari_import("FrozenLake-v1", {"frame_size": size}, tmp_path, monkeypatch)
    assert found.observation_shape == (size, size, 3) and found.metadata["env_options"] == {"frame_size": size}
    assert_equal(found.episodes(), store.episodes())


def choosing():
    return TransformAction(toys.counter(), lambda action: np.zeros(2, np.float32), MultiDiscrete([3, 2, 4]))


def test_choices_stay_choices_through_minari(tmp_path, monkeypatch):
    store, found = minari_import(choosing, {}, tmp_path, monkeypatch)
    assert found.nvec == store.nvec == (3, 2, 4)
    assert_equal(found.episodes(), store.episodes())


def test_an_export_of_a_store_is_not_mapped_twice(tmp_path, monkeypatch):
    store, _ = minari_import("Pendulum-v1", {}, tmp_path, monkeypatch)
    found = rollouts.import_from("mine/rollouts/minari-v0", tmp_path / "again", env="Pendulum-v1")  # bounds -2, 2
    assert_equal(found.episodes(), store.episodes())


def test_actions_of_other_minari_datasets_are_mapped(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gymnasium.make("Pendulum-v1")
    actions, observations = np.float32([[-2.0], [0.5], [1.0]]), [env.reset(seed=1)[0]]
    observations += [env.step(action)[0] for action in actions]
    ends = np.zeros(3, bool), np.arange(3) == 2
    episode = minari.data_collector.EpisodeBuffer(0, 1, None, np.stack(observations), actions, np.ones(3), *ends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("foreign/pendulum-v0", [episode], env=env)
    found = rollouts.import_from("foreign/pendulum-v0", tmp_path / "out").episode(0)
    np.testing.assert_allclose(found.actions, actions / 2)


def test_one_video_is_imported_as_its_folder_is(store, tmp_path):
    write_files(store, mp4_csv, tmp_path / "files")
    alone = rollouts.import_from(tmp_path / "files" / "thread_0" / "rollout_0.mp4", tmp_path / "alone")
    assert_equal(alone.episodes(), [rollouts.import_from(tmp_path / "files", tmp_path / "all").episode(0)])


def test_frames_are_resized_once(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (4, 128, 128, 3), np.uint8)
    np.savez(tmp_path / "0.npz", frames=images, actions=np.zeros((3, 3)), rewards=np.ones(3), terminated=True)
    options = {"frame_size": 96}
    found = rollouts.import_from(tmp_path / "0.npz", tmp_path / "out", "CarRacing", options).episode(0)
    np.testing.assert_array_equal(found.frames, [resize_frame(image, size=96) for image in images])
    unnamed = rollouts.import_from(tmp_path / "0.npz", tmp_path / "unnamed", env_options=options).episode(0)
    np.testing.assert_array_equal(unnamed.frames, found.frames)


def test_frames_written_with_an_environment_are_those_of_its_wrappers(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)  # the official size: with its HUD
    written = rollouts.write([([image] * 2, np.zeros((1, 3)), [0.0], True)], tmp_path, env="CarRacing")
    np.testing.assert_array_equal(written.episode(0).frames[0], resize_frame(image[:84]))


@pytest.mark.parametrize(
    ("frames", "options"),
    [(np.zeros((6, 5)), {"observation": "vector"}), (np.zeros((6, 4)), {}), (FRAMES, {"observation": "vector"})],
)
def test_observations_of_another_environment_are_refused(frames, options, tmp_path):
    np.savez(tmp_path / "0.npz", frames=frames, actions=np.zeros(5, int), rewards=np.ones(5), terminated=True)
    with pytest.raises(ValueError, match="frames"):
        rollouts.import_from(tmp_path / "0.npz", tmp_path / "out", "CartPole-v1", options)
    with pytest.raises(ValueError, match="frames"):
        episode = (frames, np.zeros(5, int), np.ones(5), True)
        rollouts.write([episode], tmp_path / "written", "CartPole-v1", options)


def test_too_many_actions_or_numbers_are_refused_before_anything_is_written(tmp_path):
    np.savez(tmp_path / "0.npz", frames=np.zeros((6, 5_000)), actions=np.zeros(5, int), rewards=np.ones(5))
    for arguments in ({"num_actions": 100_000}, {}):
        with pytest.raises(ValueError, match="num_actions" if arguments else "frames"):
            rollouts.import_from(tmp_path / "0.npz", tmp_path / "out", **arguments)
    np.savez(tmp_path / "0.npz", **GOOD)
    assert len(rollouts.import_from(tmp_path / "0.npz", tmp_path / "out")) == 1


@pytest.mark.parametrize("values", [[1.9, 0.2], [np.nan, 0.0]])
def test_choices_that_are_no_whole_numbers_are_refused(values):
    with pytest.raises(ValueError, match="whole"):
        encode_choices(np.array([values]), MultiDiscrete([3, 2]))


def test_suffixes_in_capitals_and_folders_without_actions_are_not_skipped(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.NPZ")
    assert len(rollouts.import_from(tmp_path, tmp_path.with_name("out"))) == 2
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "frames.npy", FRAMES)
    with pytest.raises(ValueError, match=r"\bc\b"):
        rollouts.import_from(tmp_path, tmp_path.with_name("other"))
