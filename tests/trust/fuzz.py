"""A reader under coverage-guided fuzzing: ``python -m tests.trust.fuzz READER FOLDER [libFuzzer's options]``.

Atheris mutates the valid files in ``FOLDER/corpus`` to reach new lines of our code. A reader must satisfy `properties.one_line`
for all of them. A file that violates this stays in the folder, and the process fails.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["agents", "worldmodel"]):
    from tests.trust.properties import one_line
    from worldmodel.agents.config.io import read_yaml
    from worldmodel.agents.evaluation import Report
    from worldmodel.corpora import audio_files
    from worldmodel.corpora.image_files import read_cifar, read_cifar_pickle, read_idx
    from worldmodel.io.files import read_json, read_jsonl, read_tensors
    from worldmodel.rollouts.policy.controllers import Controller


def read_audio(path: Path) -> Any:
    sound = audio_files.inspect(path)
    return audio_files.read(sound, 0, min(sound.num_samples, 1_000))


@atheris.instrument_func
def read_planted(path: Path) -> None:
    """A reader with a planted fault: one file of two bytes breaks it, which tests the fuzzer itself."""
    content = path.read_bytes()
    if len(content) == 2 and content[0] == 87 and content[1] == 65:
        raise KeyError("planted")


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "audio": (read_audio, "some.wav"),
    "cifar": (read_cifar, "data_batch_1.bin"),
    "cifar_pickle": (read_cifar_pickle, "data_batch_1"),
    "controller": (Controller.load, "controller.safetensors"),
    "idx": (read_idx, "train-images-idx3-ubyte"),
    "json": (read_json, "some.json"),
    "planted": (read_planted, "planted"),
    "report": (Report.load, "report.json"),
    "rows": (read_jsonl, "metrics.jsonl"),
    "sphere": (read_audio, "some.sph"),
    "tensors": (read_tensors, "weights.safetensors"),
    "yaml": (read_yaml, "config.yaml"),
}
"""Readers by name, with the names of their files."""


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        print(*READERS)
        return
    name, folder, *options = sys.argv[1:]
    read, file_name = READERS[name]
    path = Path(folder) / file_name

    def check_reader(content: bytes) -> None:
        path.write_bytes(content)
        one_line(path, read)

    corpus = Path(folder) / "corpus"
    for file in corpus.iterdir():  # the fuzzer must start from valid files
        path.write_bytes(file.read_bytes())
        read(path)
    atheris.Setup([sys.argv[0], f"-artifact_prefix={folder}/broken-", *options, str(corpus)], check_reader)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
