"""Test that collection survives SIGKILL: collect CarRacing, kill the command at random times, and check the store.

python -m benchmarks.endurance FOLDER [--episodes 1000] [--kills 10] [--write]

The store is in FOLDER. --write saves the measurements in docs/results/endurance.json.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from worldmodel import VAE
from worldmodel.agents.evaluation import hardware
from worldmodel.rollouts import Store
from worldmodel.rollouts.store.encoded_dataset import encode

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Kill and resume the collection, check the store, and measure speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Path of the run folder.")
    parser.add_argument("--episodes", type=int, default=1000, help="Number of episodes (default: 1000).")
    parser.add_argument("--kills", type=int, default=10, help="Number of kills (default: 10).")
    parser.add_argument("--write", action="store_true", help="Save the measurements.")
    options = parser.parse_args()
    command = ["worldmodel", "collect", "CarRacing", "--collect.episodes", str(options.episodes), "--workers", "2"]
    words = [sys.executable, "-m", "worldmodel.agents.cli.main", *command[1:], "--out", str(options.folder)]
    rng, shards = random.Random(0), options.folder / "rollouts" / "shards"
    num_shards, peaks, start_time, running_time = options.episodes // 10, list[float](), time.monotonic(), 0.0
    # numbers of shards after which the process is killed, with a random delay
    kill_points = sorted(rng.sample(range(1, num_shards), options.kills))
    for kill_point in [*kill_points, None]:
        before = contents(shards)
        process_start = time.monotonic()
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            peaks.append(memory(process.pid))
            if kill_point is not None and len(list(shards.glob("*.h5"))) >= kill_point:
                time.sleep(rng.uniform(0, 3))
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.2)
        running_time += time.monotonic() - process_start
        time.sleep(1.5)  # orphaned workers exit
        after = contents(shards)
        assert before.items() <= after.items(), "a finished shard changed"
        damaged = Store(options.folder / "rollouts").damaged
        assert not damaged, damaged
        print(f"{len(after)} complete shards, peak memory so far {max(peaks):.0f} MB", flush=True)
    assert process.returncode == 0
    store = Store(options.folder / "rollouts")
    episodes = [store.episode_metadata(index) for index in range(len(store))]
    distinct = len({hashlib.sha256(meta.actions.tobytes()).digest() for meta in episodes})
    assert [meta.episode_index for meta in episodes] == list(range(options.episodes)) and distinct == options.episodes
    quarter = len(peaks) // 4
    stored = sum(shard.path.stat().st_size for shard in store.shards)
    results: dict[str, Any] = {
        "command": " ".join(command),
        "hardware": hardware(),
        "episodes": len(store),
        "distinct episodes": distinct,
        "steps": store.steps,
        "kills": options.kills,
        "wall clock s": round(time.monotonic() - start_time, 1),
        "steps/s, restarts included": round(store.steps / running_time),
        "raw GB": round((store.steps + len(store)) * 64 * 64 * 3 / 1e9, 2),
        "stored GB": round(stored / 1e9, 2),
        "peak memory MB, first quarter": round(max(peaks[:quarter])),
        "peak memory MB, last quarter": round(max(peaks[-quarter:])),
        **reading(store),
    }
    print(json.dumps(results, indent=1))
    if options.write:
        path = ROOT / "docs" / "results" / "endurance.json"
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def reading(store: Store) -> dict[str, Any]:
    """Measure how fast a large store is encoded on all cores, and the peak memory."""
    part = Store(store.path)
    part.shards = part.shards[:3]
    part._locations = [(shard, number) for shard in part.shards for number in range(len(shard.lengths))]
    frames, vae = sum(part.lengths) + len(part), VAE().eval()
    with torch.no_grad():
        pictures, batches = torch.zeros(16, 64, 64, 3, dtype=torch.uint8), frames // 16
        start_time = time.monotonic()
        for _ in range(batches):
            vae.encode(pictures.movedim(-1, 1).float().div_(255))
        vae_rate = 16 * batches / (time.monotonic() - start_time)
    start_time = time.monotonic()
    encode(part, vae)
    return {
        "frames encoded/s": round(frames / (time.monotonic() - start_time)),
        "frames/s of the VAE alone": round(vae_rate),
        "peak memory of the reader MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of every complete shard, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.h5")}


def memory(parent: int) -> float:
    """Return the resident memory of a process and its descendants, in MB."""
    total, pids = 0, {parent}
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            rows.append((int(path.parent.name), int(words[1]), int(words[21])))
        except (OSError, IndexError):
            continue
    for pid, parent_pid, pages in sorted(rows):
        if pid in pids or parent_pid in pids:
            pids.add(pid)
            total += pages
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
