"""Errors in reading and writing name the file in one line."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.skips import IMPOSSIBLE
from worldmodel.io.files import atomic, error_context, fingerprint, read_tensors, write_bytes, write_tensors


@pytest.mark.parametrize("fail", [lambda: {}["x"], lambda: [] + 1, lambda: None.x, lambda: [][0], lambda: 1 / 0])
def test_error_context_names_the_file(fail):
    with pytest.raises(ValueError, match="some.json"), error_context("some.json"):
        fail()


def test_error_context_keeps_the_message_of_a_value_error():
    with pytest.raises(ValueError, match="^exactly this$"), error_context("some.json"):
        raise ValueError("exactly this")


def test_write_error_names_the_target_file(tmp_path, monkeypatch):
    """A read-only disk also refuses to remove the temporary file that was never written."""

    def refuse(path, *rest, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as refused:
        write_bytes(tmp_path / "test.json", b"{}")
    assert refused.value.filename == str(tmp_path / "test.json")


def test_atomic_keeps_the_error_of_the_block_and_leaves_no_file(tmp_path):
    with pytest.raises(KeyError, match="mine"), atomic(tmp_path / "test.json") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason=f"{IMPOSSIBLE}Windows cannot open folders")
def test_atomic_syncs_the_file_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    path, synced, sync = tmp_path / "test.bin", {}, os.fsync
    path.write_bytes(b"old")

    def record(descriptor):
        sync(descriptor)
        synced[os.fstat(descriptor).st_ino] = path.read_bytes()

    monkeypatch.setattr(os, "fsync", record)
    with path.open("rb") as reader:
        write_bytes(path, b"new")
        assert reader.read() == b"old"  # a reader has the whole old file
    assert synced == {path.stat().st_ino: b"old", tmp_path.stat().st_ino: b"new"}


def test_fingerprints_differ_with_every_weight_and_statistic():
    module = nn.BatchNorm1d(3)
    assert fingerprint(module) == fingerprint(nn.BatchNorm1d(3))
    found = [fingerprint(module)]
    for part in module.state_dict().values():
        part += 1
        found.append(fingerprint(module))
    assert len(set(found)) == len(found) == 6


def test_a_flipped_bit_of_a_weight_is_detected(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"weight": torch.ones(3)})
    assert read_tensors(path)["weight"].tolist() == [1, 1, 1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors"):
        read_tensors(path)
