"""Kinds of damage to a file."""

import numpy as np

HOW = ("truncated", "emptied", "zeroed", "swapped", "flipped early", "flipped late", "flipped anywhere")
OTHERS = {
    ".json": b'["of another kind"]',
    ".jsonl": b"[1, 2]\n",
    ".yaml": b"- of\n- another\n",
    ".safetensors": b'{"looks": "like JSON"}',
}


def damaged(content, how, name="", seed=0):
    """Damage the content of a file."""
    rng = np.random.default_rng([seed, len(content)])
    if how == "truncated":
        return content[: int(rng.integers(1, max(len(content), 2)))]
    if how == "emptied":
        return b""
    if how == "zeroed":
        return bytes(len(content))
    if how == "swapped":
        return next((other for ending, other in OTHERS.items() if name.endswith(ending)), b"PK\x03\x04 of another kind")
    end = {"flipped early": min(64, len(content)), "flipped late": len(content), "flipped anywhere": len(content)}[how]
    first = max(end - 64, 0) if how == "flipped late" else 0
    return flipped(content, int(rng.integers(first, end)), int(rng.integers(8)))


def flipped(content, offset, bit):
    changed = bytearray(content)
    changed[offset] ^= 1 << bit
    return bytes(changed)
