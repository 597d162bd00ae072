"""Audio files: their headers, and any range of their samples without reading the rest.

This module reads RIFF WAV (8, 16, 24 and 32 bit, float) and NIST SPHERE (16 bit); PyAV reads G.722, and the optional package
soundfile MP3, FLAC and other formats. The first bytes of a file determine its format, not its name; only G.722, which has no
header, is known by its suffix. Start reading at `inspect`.

References:
    Multimedia Programming Interface and Data Specifications 1.0 (RIFF WAVE), IBM and Microsoft, 1991;
    NIST SPHERE: the header of TIMIT's files (LDC93S1);
    ITU-T G.722, 7 kHz Audio-Coding within 64 kbit/s, 2012.
"""

import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

SUFFIXES = frozenset((".wav", ".sph", ".nist", ".mp3", ".flac", ".ogg", ".aif", ".aiff", ".g722"))
"""Suffixes of audio files, in any letter case."""
SAMPLE_RATE_RANGE = (1_000, 192_000)
"""Smallest and largest number of samples a second in a file."""
MAX_CHANNELS = 32
"""Largest number of channels."""
MAX_AMPLITUDE = 1e4
"""Largest absolute value of a float sample; full scale is 1. Larger values overflow in squares and likelihoods."""
MAX_CHUNKS = 1_000
"""Largest number of chunks of a WAV file before its samples."""
MAX_HEADER_BYTES = 2**20
"""Largest number of bytes of a SPHERE header."""
MAX_SAMPLES_PER_BYTE = 8_192
"""Largest number of samples that a codec packs into a byte: FLAC's shortest block, 11 bytes, holds up to 65,535 of silence."""
G722_RATE, G722_SAMPLES_PER_BYTE = 16_000, 2
"""Sample rate of G.722 at 64 kbit/s, and number of samples in a byte."""
COMPRESSED = frozenset(("g722", "soundfile"))
"""Encodings that a decoder reads."""
PREROLL = 16 * 1_152
"""Number of samples that are decoded before the requested ones: an MP3 frame uses bits of earlier frames."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""Codec numbers of a WAV file."""
UNKNOWN_LENGTH = 0xFFFFFFFF
"""Length field of a WAV file that was written before its length was known."""
ENCODINGS = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "i3",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}
"""NumPy dtype of each codec and number of bits; i3 stands for 24-bit integers."""


class AudioInfo(NamedTuple):
    """The header of an audio file.

    Args:
        path: Path of the file.
        sample_rate: Number of samples a second.
        num_channels: Number of channels.
        num_samples: Number of samples of each channel.
        encoding: A NumPy dtype, "i3" for 24-bit integers, "g722", or "soundfile".
        offset: Position of the first sample in the file, in bytes.
    """

    path: Path
    sample_rate: int
    num_channels: int
    num_samples: int
    encoding: str
    offset: int


def inspect(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        ValueError: the file is missing, damaged, truncated or of an unsupported format; the message names it.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise ValueError(f"{path} is not a regular file")
        with path.open("rb") as file:
            size, magic = os.fstat(file.fileno()).st_size, file.read(12)
            audio = None
            if magic[:7] == b"NIST_1A":
                audio = _sphere(path, file, size)
            elif magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
                audio = _wav(path, file, size)
            elif path.suffix.lower() == ".g722":
                audio = AudioInfo(path, G722_RATE, 1, size * G722_SAMPLES_PER_BYTE, "g722", 0)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    audio = audio or _soundfile_info(path, size)
    if not SAMPLE_RATE_RANGE[0] <= audio.sample_rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(
            f"{path} must have from {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]} samples a second, "
            f"got {audio.sample_rate} in its header"
        )
    if not 1 <= audio.num_channels <= MAX_CHANNELS:
        raise ValueError(f"{path} must have from 1 to {MAX_CHANNELS} channels, got {audio.num_channels} in its header")
    return audio


def read(audio: AudioInfo, start: int, stop: int) -> np.ndarray:
    """Read a range of samples as mono audio.

    Args:
        audio: The header of the file.
        start: Index of the first sample.
        stop: Index after the last sample.

    Returns:
        The samples (stop - start,), float32, averaged over channels; full scale is from -1 to 1.

    Raises:
        ValueError: the file changed after `inspect`, or has samples that are NaN, infinite or beyond `MAX_AMPLITUDE`.
    """
    assert 0 <= start <= stop <= audio.num_samples
    frames = {"soundfile": _decode, "g722": _decode_g722}.get(audio.encoding, _read_pcm)(audio, start, stop)
    mono = frames.mean(axis=1, dtype=np.float32) if audio.num_channels > 1 else frames[:, 0]
    if not np.isfinite(mono).all():
        raise ValueError(f"{audio.path} has samples that are NaN or infinite")
    if len(mono) and max(-float(mono.min()), float(mono.max())) > MAX_AMPLITUDE:
        raise ValueError(f"{audio.path} has samples beyond {MAX_AMPLITUDE:g} times full scale")
    return mono


def _wav(path: Path, file: BinaryIO, size: int) -> AudioInfo | None:
    """Read the header of RIFF WAV, a list of chunks (name, length, content); return None for a codec of soundfile."""
    wav_format: tuple[int, int, int, int] | None = None
    position = 12
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            raise ValueError(f"{path} is truncated: it has no samples (no chunk 'data')")
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        position += 8
        if name == b"fmt ":
            wav_format = _wav_format(path, file.read(min(length, 40)))
        elif name == b"data":
            return _wav_data(path, wav_format, position, length, size)
        position += length + length % 2
    raise ValueError(f"{path} is damaged: it has no samples in its first {MAX_CHUNKS} chunks")


def _wav_format(path: Path, content: bytes) -> tuple[int, int, int, int]:
    """Read the chunk 'fmt ': codec, number of channels, sample rate, bits of a sample."""
    if len(content) < 16:
        raise ValueError(f"{path} is damaged: the chunk 'fmt ' must have at least 16 bytes, got {len(content)}")
    codec, channels, rate, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    if codec == EXTENSIBLE:
        if len(content) < 26:
            raise ValueError(
                f"{path} is damaged: the chunk 'fmt ' of an extensible format must have 40 bytes, got {len(content)}"
            )
        codec = struct.unpack("<H", content[24:26])[0]  # the first two bytes of the subformat's GUID
    if (codec, bits) in ENCODINGS and block != channels * bits // 8:
        raise ValueError(f"{path} is damaged: {channels} channels of {bits} bits do not fit in blocks of {block} bytes")
    return codec, channels, rate, bits


def _wav_data(
    path: Path, wav_format: tuple[int, int, int, int] | None, position: int, length: int, size: int
) -> AudioInfo | None:
    """Return the header of a WAV file from its format and the position of its samples; None for soundfile's codecs."""
    if wav_format is None:
        raise ValueError(f"{path} is damaged: its samples precede the chunk 'fmt '")
    codec, channels, rate, bits = wav_format
    if (codec, bits) not in ENCODINGS:
        return None
    if length == UNKNOWN_LENGTH:
        length = size - position
    if position + length > size:
        raise ValueError(
            f"{path} is truncated: it must have {length} bytes of samples as in its header, got {size - position}"
        )
    return AudioInfo(path, rate, channels, length // max(channels * bits // 8, 1), ENCODINGS[codec, bits], position)


def _sphere(path: Path, file: BinaryIO, size: int) -> AudioInfo:
    """Read the header of NIST SPHERE: lines "name -type value"; its second line gives its length in bytes."""
    file.seek(0)
    second = file.read(16).split(b"\n")[1:2]
    length = _parse_int(path, "header size", b"".join(second).decode("latin-1"))
    if not 16 <= length <= min(MAX_HEADER_BYTES, size):
        raise ValueError(f"{path} is damaged: a SPHERE header of {length} bytes does not fit in a file of {size} bytes")
    file.seek(0)
    fields = _sphere_fields(file.read(length))
    coding = fields.get("sample_coding", "pcm")
    if coding != "pcm":
        raise ValueError(
            f"{path} must have 16-bit PCM samples, got {coding}; convert it with NIST's w_decode -o pcm or with sph2pipe -f wav"
        )
    width = _parse_int(path, "sample_n_bytes", fields.get("sample_n_bytes", ""))
    order = fields.get("sample_byte_format", "")
    if width != 2 or order not in ("01", "10"):
        raise ValueError(
            f"{path} must have samples of 2 bytes in the order 01 or 10, got {width} and {order!r} in its header"
        )
    rate, channels = (_parse_int(path, name, fields.get(name, "")) for name in ("sample_rate", "channel_count"))
    available = (size - length) // (2 * max(channels, 1))
    count = _parse_int(path, "sample_count", fields.get("sample_count", str(available)))
    if count > available:
        raise ValueError(f"{path} is truncated: it must have {count} samples as in its header, got {available}")
    return AudioInfo(path, rate, channels, count, "<i2" if order == "01" else ">i2", length)


def _sphere_fields(header: bytes) -> dict[str, str]:
    """Return the fields of a SPHERE header."""
    fields = {}
    for line in header.decode("latin-1").split("\n")[2:]:
        if line.strip() == "end_head":
            break
        words = line.split(None, 2)
        if len(words) == 3 and not line.startswith(";"):
            fields[words[0]] = words[2].strip()
    return fields


def _parse_int(path: Path, name: str, text: str) -> int:
    """Parse the nonnegative integer of a header field."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError(f"{path} is damaged: {name} must be a nonnegative integer, got {text[:40]!r} in its header")
    return int(text)


def _read_pcm(audio: AudioInfo, start: int, stop: int) -> np.ndarray:
    """Read PCM or float samples (stop - start, channels)."""
    width = 3 if audio.encoding == "i3" else np.dtype(audio.encoding).itemsize
    count = (stop - start) * audio.num_channels
    try:
        raw = np.fromfile(audio.path, np.uint8, count * width, offset=audio.offset + start * audio.num_channels * width)
    except OSError as error:
        raise ValueError(f"{audio.path} cannot be read: {error.strerror or error}") from None
    if len(raw) != count * width:
        raise ValueError(
            f"{audio.path} changed after its header was read: expected {count * width} bytes of samples, got {len(raw)}"
        )
    if audio.encoding == "i3":  # to the upper three bytes of an int32
        wide = np.zeros((count, 4), np.uint8)
        wide[:, 1:] = raw.reshape(count, 3)
        values = wide.reshape(-1).view("<i4")
    else:
        values = raw.view(audio.encoding)
    return _full_scale(values).reshape(stop - start, audio.num_channels)


def _full_scale(values: np.ndarray) -> np.ndarray:
    """Scale integers to [-1, 1) and convert to float32; floats keep their scale."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # `read` rejects values that overflow
            return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return values.astype(np.float32) / np.float32(2.0 ** (8 * values.itemsize - 1))


def _soundfile(path: Path) -> Any:
    """Import soundfile."""
    try:
        import soundfile  # optional and slow to import
    except (ImportError, OSError):
        raise ValueError(
            f"{path} is not PCM WAV or SPHERE; install soundfile to read it: pip install 'worldmodel[audio]'"
        ) from None
    return soundfile


def _soundfile_info(path: Path, size: int) -> AudioInfo:
    """Read the header of a file with soundfile."""
    soundfile = _soundfile(path)
    try:
        info = soundfile.info(str(path))
    except Exception as error:  # its own errors, and TypeError for headerless audio
        raise ValueError(f"{path} must be an audio file: {error}") from None
    if not 0 <= info.frames <= MAX_SAMPLES_PER_BYTE * size:
        raise ValueError(f"{path} is damaged: its {size} bytes cannot hold {info.frames} samples")
    return AudioInfo(path, int(info.samplerate), int(info.channels), int(info.frames), "soundfile", 0)


def _decode(audio: AudioInfo, start: int, stop: int) -> np.ndarray:
    """Decode samples (stop - start, channels) with soundfile."""
    soundfile = _soundfile(audio.path)
    first = max(start - PREROLL, 0)
    try:
        with soundfile.SoundFile(str(audio.path)) as file:
            file.seek(first)  # a single read: soundfile seeks after each, which loses the bits of earlier frames
            frames = np.asarray(file.read(stop - first, dtype="float32", always_2d=True))[start - first :]
    except Exception as error:
        raise ValueError(f"{audio.path} is damaged: {error}") from None
    if frames.shape != (stop - start, audio.num_channels):
        raise ValueError(
            f"{audio.path} is truncated: expected {stop - start} samples from sample {start}, got {len(frames)}"
        )
    return frames


def _decode_g722(audio: AudioInfo, start: int, stop: int) -> np.ndarray:
    """Decode samples (stop - start, 1) of G.722, whose decoder adapts from the first byte on."""
    import av  # slow to import

    try:
        content = audio.path.read_bytes()
    except OSError as error:
        raise ValueError(f"{audio.path} cannot be read: {error.strerror or error}") from None
    decoder = av.CodecContext.create("g722", "r")
    frames = [*decoder.decode(av.Packet(content)), *decoder.decode(None)] if content else []
    values = np.concatenate([np.zeros((1, 0), np.int16), *(frame.to_ndarray() for frame in frames)], axis=1)[0]
    if len(values) != audio.num_samples:
        raise ValueError(
            f"{audio.path} changed after its header was read: expected {audio.num_samples} samples, got {len(values)}"
        )
    return _full_scale(values[start:stop])[:, None]
