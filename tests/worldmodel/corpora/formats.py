"""Writers of tiny corpus files in the true formats, built from the format descriptions without the code under test."""

import contextlib
import gzip
import pickle
import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np

GUID = bytes.fromhex("000000001000800000aa00389b71")  # bytes 3 to 16 of every subformat of extensible WAV


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def wav_bytes(samples, rate=16_000, kind="i2", extensible=False, before=b""):
    """Bytes of a RIFF WAV file with samples (n,) or (n, channels) in [-1, 1)."""
    samples = np.asarray(samples, np.float64)
    samples = samples[:, None] if samples.ndim == 1 else samples
    channels, bits = samples.shape[1], 8 * int(kind[1])
    if kind[0] == "f":
        raw = samples.astype("<" + kind).tobytes()
    elif kind == "u1":
        raw = np.round(samples * 128 + 128).clip(0, 255).astype(np.uint8).tobytes()
    else:
        quantized = (
            np.round(samples * 2.0 ** (bits - 1)).clip(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1).astype("<i8")
        )
        raw = quantized.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    codec = 3 if kind[0] == "f" else 1
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else codec, channels, rate, rate * block, block, bits)
    if extensible:
        form += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", codec) + GUID
    body = chunk(b"fmt ", form) + before + chunk(b"data", raw)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def sphere_bytes(samples, rate=16_000, order="01", header=1024, **fields):
    """Bytes of a NIST SPHERE file with 16-bit samples (n,) in [-1, 1)."""
    quantized = np.round(np.asarray(samples) * 2**15).clip(-(2**15), 2**15 - 1)
    header_fields = {
        "database_id -s5": "TIMIT",
        "channel_count -i": 1,
        "sample_count -i": len(quantized),
        "sample_rate -i": rate,
        "sample_n_bytes -i": 2,
        "sample_byte_format -s2": order,
        "sample_sig_bits -i": 16,
    } | {name.replace("__", " -"): value for name, value in fields.items()}
    lines = [f"{name} {value}" for name, value in header_fields.items() if value is not None]
    text = "\n".join(["NIST_1A", f"{header:7d}", *lines, "end_head", ""])
    return text.encode().ljust(header, b" ") + quantized.astype("<i2" if order == "01" else ">i2").tobytes()


def idx_bytes(pixels):
    """Bytes of an IDX file with pixels (N, H, W)."""
    return (
        struct.pack(">BBBB", 0, 0, 8, pixels.ndim) + struct.pack(f">{pixels.ndim}I", *pixels.shape) + pixels.tobytes()
    )


def write_mnist(folder, training, test, mark="-", packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, pixels in (("train", training), ("t10k", test)):
        content = idx_bytes(pixels)
        name = f"{part}-images{mark}idx3-ubyte{'.gz' if packed else ''}"
        (folder / name).write_bytes(gzip.compress(content) if packed else content)


def cifar_rows(pixels):
    # (N, 32, 32, 3) -> (N, 3 x 32 x 32)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1))


def cifar_bytes(pixels):
    labels = (np.arange(len(pixels)) % 10).astype(np.uint8)
    return np.concatenate([labels[:, None], cifar_rows(pixels)], axis=1).tobytes()


def cifar_pickle(pixels, protocol=2):
    """A batch as in the original files: a pickled dict with bytes as keys."""
    content = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [number % 10 for number in range(len(pixels))],
        b"data": cifar_rows(pixels),
        b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * len(pixels),
    }
    return pickle.dumps(content, protocol=protocol)


def write_cifar(folder, training, test, write=cifar_bytes, ending=".bin"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(np.array_split(training, 5), 1):
        (folder / f"data_batch_{number}{ending}").write_bytes(write(pixels))
    (folder / f"test_batch{ending}").write_bytes(write(test))


def speech(rng, samples):
    """Speech-like samples: an amplitude-modulated tone with noise."""
    time = np.arange(samples) / 16_000
    tone = np.sin(2 * np.pi * rng.uniform(100, 300) * time) * np.sin(2 * np.pi * rng.uniform(1, 3) * time) ** 2
    return 0.02 + 0.3 * tone + 0.01 * rng.normal(size=samples)


def g722_bytes(samples):
    """A G.722 file at 64 kbit/s: no header, a byte for two samples."""
    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.format, encoder.layout, encoder.time_base = 16_000, "s16", "mono", Fraction(1, 16_000)
    frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.int16)[None], format="s16", layout="mono")
    frame.sample_rate = 16_000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def write_prompts(folder, speakers=("en_US_f_A", "fr_CA_f_B", "it_IT_m_C"), prompts=20):
    """Prompts of a telephone system: speakers' folders, tones, silence, and a link to a speaker as Debian makes it."""
    rng = np.random.default_rng(0)
    for speaker in speakers:
        names = [f"{'digits/' if number % 2 else ''}{number}" for number in range(prompts)]
        for name in [*names, "beep", "silence/1"]:
            path = folder / speaker / f"{name}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(g722_bytes(speech(rng, 2 * int(rng.integers(600, 2_000)))))
    (folder / "en").symlink_to(folder / speakers[0])
    return folder


def write_timit(
    folder, train=("FAAA0", "MBBB0", "FCCC0", "MDDD0"), test=("FEEE0",), case=str.upper, ending=".WAV", seed=0
):
    """Write TIMIT as on its disc: four sentences per speaker, SPHERE in both byte orders, with transcripts."""
    rng = np.random.default_rng(seed)
    for part, speakers in (("TRAIN", train), ("TEST", test)):
        for number, speaker in enumerate(speakers):
            speaker_folder = folder / case(part) / case(f"DR{number % 8 + 1}") / case(speaker)
            speaker_folder.mkdir(parents=True)
            for sentence in ("SA1", "SA2", "SX7", "SI1001"):
                samples = speech(rng, int(rng.integers(1_000, 3_000)))
                content = sphere_bytes(samples, order=("01", "10")[number % 2])
                (speaker_folder / (case(sentence) + ending)).write_bytes(content)
                (speaker_folder / case(sentence + ".TXT")).write_text("0 100 She had your dark suit")
    return folder


@contextlib.contextmanager
def assert_peak_memory_below(size):
    """Assert that the traced memory of a block stays below ``size`` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
