"""Audio files: what their headers say, and any stretch of their samples, without reading the rest.

RIFF WAV (8, 16, 24 and 32 bit, float) and NIST SPHERE (16 bit) are read here; MP3, FLAC and what else there is through
soundfile, if it is installed. The first bytes tell which, not the name. Start reading at `inspect`.

References:
    Multimedia Programming Interface and Data Specifications 1.0 (RIFF WAVE), IBM and Microsoft, 1991;
    NIST SPHERE: the header of TIMIT's files (LDC93S1).
"""

import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

SUFFIXES = frozenset((".wav", ".sph", ".nist", ".mp3", ".flac", ".ogg", ".aif", ".aiff"))
"""Names that end so, in any letter case, are taken for audio files."""
SAMPLE_RATE_RANGE = (1_000, 192_000)
"""Samples a second: the least and the most that a file may have."""
MAX_CHANNELS = 32
"""The most channels."""
MAX_AMPLITUDE = 1e4
"""Samples of float files further from 0, full scale being 1, are no sound: squares and likelihoods of them overflow."""
MAX_CHUNKS = 1_000
"""So many chunks of a WAV file are looked at."""
MAX_HEADER_BYTES = 2**20
"""A SPHERE header is at most so long, in bytes."""
MAX_SAMPLES_PER_BYTE = 8_192
"""No codec packs more samples into a byte: FLAC's shortest block, 11 bytes, holds up to 65,535 of silence."""
PREROLL = 16 * 1_152
"""So many samples before those that are asked for are decoded too: an MP3 frame borrows bits from frames before it."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
STREAMED = 0xFFFFFFFF
"""The length that a WAV file gives which was written without knowing it."""
ENCODINGS = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "i3",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}


class AudioInfo(NamedTuple):
    """An audio file, as its header describes it."""

    path: Path
    sample_rate: int
    """Samples a second."""
    num_channels: int
    num_samples: int
    """Of each channel."""
    encoding: str
    """A numpy dtype, "i3" for 24 bit, or "soundfile"."""
    offset: int
    """Where the samples begin, in bytes."""


def inspect(path: str | os.PathLike[str]) -> AudioInfo:
    """Read a file's header.

    Raises:
        ValueError: the file is missing, damaged, cut off, or in a form that cannot be read; the message names it.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise ValueError(f"{path} is not a regular file")
        with path.open("rb") as file:
            size, magic = os.fstat(file.fileno()).st_size, file.read(12)
            sound = None
            if magic[:7] == b"NIST_1A":
                sound = _sphere(path, file, size)
            elif magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
                sound = _wav(path, file, size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    sound = sound or _other(path, size)
    if not SAMPLE_RATE_RANGE[0] <= sound.sample_rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(
            f"{path} must have from {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]} samples a second, its "
            f"header says {sound.sample_rate}"
        )
    if not 1 <= sound.num_channels <= MAX_CHANNELS:
        raise ValueError(f"{path} must have from 1 to {MAX_CHANNELS} channels, its header says {sound.num_channels}")
    return sound


def read(sound: AudioInfo, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop``, (stop - start,) in single precision, channels averaged, full scale from -1 to 1.

    Raises:
        ValueError: the file changed since it was inspected, or holds NaN, infinity or more than `MAX_AMPLITUDE`.
    """
    assert 0 <= start <= stop <= sound.num_samples
    decode = _decode if sound.encoding == "soundfile" else _unpack
    frames = decode(sound, start, stop)
    mono = frames.mean(axis=1, dtype=np.float32) if sound.num_channels > 1 else frames[:, 0]
    if not np.isfinite(mono).all():
        raise ValueError(f"{sound.path} holds samples that are NaN or infinite")
    if len(mono) and max(-float(mono.min()), float(mono.max())) > MAX_AMPLITUDE:
        raise ValueError(f"{sound.path} holds samples beyond {MAX_AMPLITUDE:g} times full scale")
    return mono


def _wav(path: Path, file: BinaryIO, size: int) -> AudioInfo | None:
    """RIFF WAV: chunks of (name, length, content). None: a codec for soundfile to decode."""
    form: tuple[int, int, int, int] | None = None
    place = 12
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            raise ValueError(f"{path} is cut off: a WAV file without samples (no chunk 'data')")
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        place += 8
        if name == b"fmt ":
            form = _wav_format(path, file.read(min(length, 40)))
        elif name == b"data":
            return _wav_data(path, form, place, length, size)
        place += length + length % 2
    raise ValueError(f"{path} is damaged: no samples in the first {MAX_CHUNKS} chunks of a WAV file")


def _wav_format(path: Path, content: bytes) -> tuple[int, int, int, int]:
    """The chunk 'fmt ': codec, channels, rate, bits a sample."""
    if len(content) < 16:
        raise ValueError(f"{path} is damaged: the chunk 'fmt ' must have at least 16 bytes, got {len(content)}")
    codec, channels, rate, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    if codec == EXTENSIBLE:
        if len(content) < 26:
            raise ValueError(f"{path} is damaged: an extensible WAV format must have 40 bytes, got {len(content)}")
        codec = struct.unpack("<H", content[24:26])[0]  # the first two bytes of the subformat's GUID
    if (codec, bits) in ENCODINGS and block != channels * bits // 8:
        raise ValueError(f"{path} is damaged: {channels} channels of {bits} bit in blocks of {block} bytes")
    return codec, channels, rate, bits


def _wav_data(
    path: Path, form: tuple[int, int, int, int] | None, place: int, length: int, size: int
) -> AudioInfo | None:
    if form is None:
        raise ValueError(f"{path} is damaged: samples before the chunk 'fmt ' that describes them")
    codec, channels, rate, bits = form
    if (codec, bits) not in ENCODINGS:
        return None
    if length == STREAMED:
        length = size - place
    if place + length > size:
        raise ValueError(f"{path} is cut off: its header says {length} bytes of samples, {size - place} are there")
    return AudioInfo(path, rate, channels, length // max(channels * bits // 8, 1), ENCODINGS[codec, bits], place)


def _sphere(path: Path, file: BinaryIO, size: int) -> AudioInfo:
    """NIST SPHERE: a header of lines "name -type value", as long as its second line says."""
    file.seek(0)
    second = file.read(16).split(b"\n")[1:2]
    length = _whole(path, "header size", b"".join(second).decode("latin-1"))
    if not 16 <= length <= min(MAX_HEADER_BYTES, size):
        raise ValueError(f"{path} is damaged: a SPHERE header of {length} bytes in a file of {size}")
    file.seek(0)
    fields = _sphere_fields(file.read(length))
    coding = fields.get("sample_coding", "pcm")
    if coding != "pcm":
        raise ValueError(
            f"{path} is compressed ({coding}): only 16-bit PCM is read. NIST's w_decode -o pcm or sph2pipe -f wav unpacks it"
        )
    width = _whole(path, "sample_n_bytes", fields.get("sample_n_bytes", ""))
    order = fields.get("sample_byte_format", "")
    if width != 2 or order not in ("01", "10"):
        raise ValueError(
            f"{path} must have samples of 2 bytes in the order 01 or 10, its header says {width} and {order!r}"
        )
    rate, channels = (_whole(path, name, fields.get(name, "")) for name in ("sample_rate", "channel_count"))
    there = (size - length) // (2 * max(channels, 1))
    count = _whole(path, "sample_count", fields.get("sample_count", str(there)))
    if count > there:
        raise ValueError(f"{path} is cut off: its header says {count} samples, {there} are there")
    return AudioInfo(path, rate, channels, count, "<i2" if order == "01" else ">i2", length)


def _sphere_fields(header: bytes) -> dict[str, str]:
    fields = {}
    for line in header.decode("latin-1").split("\n")[2:]:
        if line.strip() == "end_head":
            break
        words = line.split(None, 2)
        if len(words) == 3 and not line.startswith(";"):
            fields[words[0]] = words[2].strip()
    return fields


def _whole(path: Path, name: str, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError(f"{path} is damaged: {name} must be a whole number, its header says {text[:40]!r}")
    return int(text)


def _unpack(sound: AudioInfo, start: int, stop: int) -> np.ndarray:
    """(stop - start, channels) out of PCM or float samples."""
    width = 3 if sound.encoding == "i3" else np.dtype(sound.encoding).itemsize
    wanted = (stop - start) * sound.num_channels
    try:
        raw = np.fromfile(
            sound.path, np.uint8, wanted * width, offset=sound.offset + start * sound.num_channels * width
        )
    except OSError as error:
        raise ValueError(f"{sound.path} cannot be read: {error.strerror or error}") from None
    if len(raw) != wanted * width:
        raise ValueError(
            f"{sound.path} is shorter than when it was opened: {wanted * width} bytes asked, {len(raw)} came"
        )
    if sound.encoding == "i3":  # into the upper three bytes of four
        wide = np.zeros((wanted, 4), np.uint8)
        wide[:, 1:] = raw.reshape(wanted, 3)
        values = wide.reshape(-1).view("<i4")
    else:
        values = raw.view(sound.encoding)
    return _full_scale(values).reshape(stop - start, sound.num_channels)


def _full_scale(values: np.ndarray) -> np.ndarray:
    """Whole numbers from -1 to 1; floats as they are."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # `read` refuses what does not fit
            return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return values.astype(np.float32) / np.float32(2.0 ** (8 * values.itemsize - 1))


def _soundfile(path: Path) -> Any:
    try:
        import soundfile  # optional, and slow to import: only where it is needed
    except (ImportError, OSError):
        raise ValueError(f"{path} is not PCM WAV or SPHERE: to read it, pip install 'worldmodel[audio]'") from None
    return soundfile


def _other(path: Path, size: int) -> AudioInfo:
    """What soundfile makes of a file."""
    soundfile = _soundfile(path)
    try:
        found = soundfile.info(str(path))
    except Exception as error:  # the library's own kinds, and TypeError for headerless audio
        raise ValueError(f"{path} is not an audio file that can be read: {error}") from None
    if not 0 <= found.frames <= MAX_SAMPLES_PER_BYTE * size:
        raise ValueError(f"{path} is damaged: its {size} bytes cannot hold {found.frames} samples")
    return AudioInfo(path, int(found.samplerate), int(found.channels), int(found.frames), "soundfile", 0)


def _decode(sound: AudioInfo, start: int, stop: int) -> np.ndarray:
    """(stop - start, channels) through soundfile."""
    soundfile = _soundfile(sound.path)
    early = max(start - PREROLL, 0)
    try:
        with soundfile.SoundFile(str(sound.path)) as file:
            file.seek(early)  # and one read: soundfile seeks after each, and what was borrowed would be lost again
            frames = np.asarray(file.read(stop - early, dtype="float32", always_2d=True))[start - early :]
    except Exception as error:
        raise ValueError(f"{sound.path} is damaged: {error}") from None
    if frames.shape != (stop - start, sound.num_channels):
        raise ValueError(f"{sound.path} is cut off: {stop - start} samples asked at {start}, {len(frames)} came")
    return frames
