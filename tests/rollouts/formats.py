"""Write episodes as other programs do."""

import csv
import json

import av
import h5py
import numpy as np

from worldmodel.rollouts import Store


def npz(episode, folder):
    ends = {"terminated": episode.terminated, "truncated": episode.truncated}
    np.savez(f"{folder}.npz", frames=episode.frames, actions=episode.actions, rewards=episode.rewards, **ends)
    return episode


def npy(episode, folder):
    folder.mkdir()
    for name in ("frames", "actions", "rewards", "terminated", "truncated"):
        np.save(folder / f"{name}.npy", getattr(episode, name))
    return episode


def obs_action(episode, folder):
    """hardmaru/WorldModelsExperiments: T frames, T actions, in half precision if they are floats."""
    kind = np.int64 if episode.actions.ndim == 1 else np.float16
    np.savez_compressed(f"{folder}.npz", obs=episode.frames[:-1], action=episode.actions.astype(kind))
    before = episode.first(len(episode) - 1)
    return type(episode)(before.frames, before.actions.astype(kind), np.zeros(len(before)), False, True)


def observations_terminals(episode, folder):
    """ctallec/world-models: frames after each action, and actions that were drawn for 1,000 steps."""
    rest = np.repeat(episode.actions[-1:], 1000 - len(episode), axis=0)
    terminals = np.arange(len(episode)) == len(episode) - 1
    np.savez(
        f"{folder}.npz",
        observations=episode.frames[1:],
        rewards=episode.rewards,
        actions=np.concatenate([episode.actions, rest]),
        terminals=terminals & episode.terminated,
    )
    ends = (episode.terminated, not episode.terminated)
    return type(episode)(episode.frames[1:], episode.actions[1:], episode.rewards[1:], *ends)


def write_video(path, frames):
    """Write a video without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def mp4_csv(episode, folder):
    write_video(f"{folder}.mp4", episode.frames)
    box = episode.actions.ndim == 2
    names = [f"action_{number}" for number in range(episode.actions.shape[1])] if box else ["action"]
    last = np.arange(len(episode)) == len(episode) - 1
    with open(f"{folder}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "reward", "terminated", "truncated"])
        for row in zip(
            episode.actions, episode.rewards, last & episode.terminated, last & episode.truncated, strict=True
        ):
            writer.writerow([*np.atleast_1d(row[0]).tolist(), *(value.item() for value in row[1:])])
    return episode


def mp4_jsonl(episode, folder):
    write_video(f"{folder}.mp4", episode.frames)
    rows = [
        {"action": action, "reward": reward}
        for action, reward in zip(episode.actions.tolist(), episode.rewards.tolist(), strict=True)
    ]
    rows = [row | {"terminated": episode.terminated and row is rows[-1]} for row in rows]
    with open(f"{folder}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return episode


FILES = [npz, npy, obs_action, observations_terminals, mp4_csv, mp4_jsonl]


def write_files(store, write, folder):
    """Write each episode of a store in folders as a program with several threads does; returns what an import gives."""
    expected = []
    for episode in store.episodes():
        place = folder / f"thread_{episode.index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        expected.append(write(episode, place / f"rollout_{episode.index}"))
    return expected[::2] + expected[1::2]


def equal_stores(one, other):
    """Whether two folders of stores have equal arrays in every shard."""

    def arrays(store):
        return [
            (np.concatenate([e.frames.ravel(), e.actions.ravel(), e.rewards]), e.terminated, e.truncated) for e in store
        ]

    pairs = zip(arrays(Store(one).episodes()), arrays(Store(other).episodes()), strict=True)
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in pairs)


def shard_counts(folder):
    """Numbers of episodes of the shards of a folder."""
    return [int(h5py.File(path).attrs["count"]) for path in sorted(folder.glob("shards/*.h5"))]
