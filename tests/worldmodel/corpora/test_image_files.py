"""IDX and CIFAR-10 files: valid, damaged and hostile files."""

import gzip
import itertools
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worldmodel.corpora import formats
from worldmodel.corpora.image_files import cifar10_images, mnist_images, read_cifar, read_cifar_pickle, read_idx

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
IDX, PICKLED = formats.idx_bytes(GREY), formats.cifar_pickle(COLOUR)


def put(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    return tmp_path / "x"


def short(text):
    return b"U" + bytes([len(text)]) + text


def long(text):
    return b"T" + struct.pack("<I", len(text)) + text


def original_pickle(pixels):
    """A batch as Python 2's cPickle wrote the distributed files: texts are byte strings, and names are those of numpy 1."""
    rows = formats.cifar_rows(pixels)
    shape = b"K" + bytes([len(rows)]) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\nq\x07" + short(b"u1") + b"K\x00K\x01\x87Rq\x08(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xff"
    )
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85" + short(b"b") + b"\x87Rq\x06"
    array += b"(K\x01" + shape + dtype + b"\x89" + long(rows.tobytes()) + b"tb"
    labels = b"]q\x09(" + b"".join(b"K" + bytes([n % 10]) for n in range(len(rows))) + b"e"
    items = short(b"batch_label") + short(b"training batch 1 of 5") + short(b"data") + array + short(b"labels") + labels
    return b"\x80\x02}q\x01(" + items + b"u."


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("subfolder", ["", "raw", "MNIST/raw"])
def test_idx_files_are_read(tmp_path, mark, packed, subfolder):
    formats.write_mnist(tmp_path / subfolder, GREY, GREY[:3], mark, packed)
    training, test = mnist_images(tmp_path)
    assert np.array_equal(training, GREY[..., None])
    assert np.array_equal(test, GREY[:3, ..., None])


def test_images_of_two_sizes_are_refused(tmp_path):
    formats.write_mnist(tmp_path, GREY, GREY[:, :3])
    with pytest.raises(ValueError, match=r"t10k.*\(5, 4\).*\(3, 4\)"):
        mnist_images(tmp_path)


@pytest.mark.parametrize(
    ("write", "ending"),
    [(formats.cifar_bytes, ".bin"), (formats.cifar_pickle, ""), (original_pickle, "")]
    + [(lambda pixels, protocol=protocol: formats.cifar_pickle(pixels, protocol), "") for protocol in (0, 1, 3, 4, 5)],
)
@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
def test_cifar_files_are_read(tmp_path, write, ending, subfolder):
    formats.write_cifar(tmp_path / subfolder, COLOUR, COLOUR[2:4], write, ending)
    training, test = cifar10_images(tmp_path)
    assert training.dtype == np.uint8
    assert np.array_equal(training, COLOUR)
    assert np.array_equal(test, COLOUR[2:4])


def test_missing_image_files_return_none(tmp_path):
    formats.write_mnist(tmp_path, GREY, GREY)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    formats.write_cifar(tmp_path, COLOUR, COLOUR)
    (tmp_path / "data_batch_4.bin").unlink()
    assert mnist_images(tmp_path) is None
    assert cifar10_images(tmp_path) is None


def header(*shape):
    return struct.pack(">BBBBIII", 0, 0, 8, 3, *shape)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ""),
        (b"\0" * 100, "2051.*00000000"),
        (struct.pack(">II", 2_049, 7) + bytes(7), "2051.*00000801"),  # labels
        (IDX[:-1], "7.*5 x 4.*139"),
        (IDX + b"\0", "141"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1), "4294967295"),
        (header(0, 28, 28), "0"),
        (header(60_000, 28, 28), "60000"),
        (gzip.compress(header(60_000, 100, 100)), "600000000"),
        (gzip.compress(header(60_000, 2**16, 2**16)), "1073741824"),
        (gzip.compress(IDX)[:-8], ""),
        (gzip.compress(IDX)[:-12], ""),
        (gzip.compress(IDX + b"\0"), "141"),
        (gzip.compress(IDX)[:-8] + b"\0" * 8, ""),
        (gzip.compress(header(1, 2, 2) + bytes(2**26)), "5"),  # a decompression bomb behind a valid header
        (b"\x1f\x8b" + bytes(50), ""),
    ],
    ids=itertools.count(),
)
def test_damaged_idx_files_are_named_and_use_little_memory(tmp_path, content, named):
    path = put(tmp_path, content)
    with formats.assert_peak_memory_below(2**20), pytest.raises(ValueError, match=f"/x .*{named}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "3073"), (formats.cifar_bytes(COLOUR)[:-1], "21510"), (b"\x0a" + bytes(3_072), "10")],
    ids=itertools.count(),
)
def test_damaged_binary_batches_are_named(tmp_path, content, named):
    with pytest.raises(ValueError, match=f"/x .*{named}"):
        read_cifar(put(tmp_path, content))


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def dumped(value, protocol=2):
    return pickle.dumps({b"data": value}, protocol=protocol)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("call", [os.system, eval, np.load])
def test_a_hostile_pickle_does_not_run(tmp_path, protocol, call):
    mark = tmp_path / "ran"
    content = dumped(Evil(call, f"touch {mark}"), protocol)
    name = f"{call.__module__}.{call.__name__}".replace("posix", "(posix|nt)")
    name = name.replace("builtins", "(builtins|__builtin__)").replace("numpy.", r"numpy\.[\w.]*")
    with pytest.raises(ValueError, match=rf"/x .*\b{name}\b"):
        read_cifar_pickle(put(tmp_path, content))
    assert not mark.exists()


RECONSTRUCT = np.empty(0, np.uint8).__reduce__()[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PICKLED[:-1],
        PICKLED[: len(PICKLED) // 2],
        pickle.dumps([1]),
        pickle.dumps({b"labels": [1]}),
        dumped(7),
        dumped(np.zeros((2, 3_071), np.uint8)),
        dumped(np.zeros((2, 3_072), np.int64)),
        dumped(np.zeros((1, 3_072), object)),
        dumped(np.asfortranarray(np.zeros((2, 3_072), np.uint8))),
        dumped(Evil(RECONSTRUCT, np.ndarray, (2**40,), b"b")),  # would allocate a terabyte
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # would allocate 32 gigabytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02\x82\x01.",  # EXT1
        b"(S'echo'\nios\nsystem\n.",  # INST
        b"Pwhere\n.",  # PERSID
        b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00xK\x01sb}.",  # sets the state of a function
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00idna9\x86R.",
        b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b".",
    ],
    ids=itertools.count(),
)
def test_damaged_and_hostile_pickles_are_refused(tmp_path, content):
    path = put(tmp_path, content)
    with formats.assert_peak_memory_below(2**25), pytest.raises(ValueError, match="/x "):
        read_cifar_pickle(path)


def test_hostile_pickle_does_not_change_the_reader(tmp_path):
    with pytest.raises(ValueError, match="/x "):
        read_cifar_pickle(put(tmp_path, b"\x80\x02c_codecs\nencode\nN}X\x04\x00\x00\x00callNs\x86b."))
    assert len(read_cifar_pickle(put(tmp_path, formats.cifar_pickle(COLOUR, 2)))) == 7


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=150, deadline=None)
@given(
    reader=st.sampled_from([read_idx, read_cifar, read_cifar_pickle]),
    head=st.sampled_from([b"", IDX[:16], b"\x1f\x8b\x08\x00", b"\x80\x02", PICKLED[:60], b"\x80\x04}"]),
    words=st.lists(st.one_of(st.sampled_from(OPCODES), st.binary(max_size=6)), max_size=30),
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, reader, head, words):
    path = put(tmp_path_factory.mktemp("any"), head + b"".join(words))
    try:
        assert reader(path).dtype == np.uint8
    except ValueError as error:
        assert "/x " in str(error)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 400), patch=st.binary(min_size=1, max_size=4))
def test_a_pickle_with_wrong_bytes_is_read_or_refused(tmp_path_factory, place, patch):
    content = formats.cifar_pickle(COLOUR[:1])
    path = put(tmp_path_factory.mktemp("any"), content[:place] + patch + content[place + len(patch) :])
    try:
        assert read_cifar_pickle(path).shape == (1, 32, 32, 3)
    except ValueError as error:
        assert "/x " in str(error)


@pytest.mark.parametrize(
    "nested",
    [b"K\x01" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(60)),
     b"K\x01" + b"".join(b"q%c(" % n + b"h%c" % n * 9 + b"t" for n in range(15))],
)  # fmt: skip
def test_nested_tuples_do_not_hang(tmp_path, nested):
    for content in (b"\x80\x02}" + nested + b"Ns.", b"\x80\x02" + nested + b"."):
        with pytest.raises(ValueError, match="/x "):
            read_cifar_pickle(put(tmp_path, content))


def test_nested_lists_do_not_hang(tmp_path):
    nested = b"]" + b"".join(b"q%c0]q%ch%cah%ca" % (n, n + 1, n, n) for n in range(14))
    array = b"cnumpy\nndarray\n" + nested + b"U\x02u1U\x01x\x87R"
    with pytest.raises(ValueError, match="/x "):
        read_cifar_pickle(put(tmp_path, b"\x80\x02}U\x04data" + array + b"s."))
