"""The device of trainings: chosen by argument, by ``--device``, or by the variable ``WORLDMODEL_DEVICE``; else automatically.

Start reading at `resolve_device`.
"""

import os
import platform

import torch

VARIABLE = "WORLDMODEL_DEVICE"
"""Environment variable with the default device of this process and of its workers; ``--device`` sets it."""
KINDS = ("cpu", "cuda", "mps")


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return a device that this machine has.

    Args:
        device: "auto" (CUDA if available, else the CPU), "cpu", "cuda", "cuda:N" or "mps". None:
            ``WORLDMODEL_DEVICE``, else "auto". Under torchrun, "auto" and "cuda" are the process's own GPU.

    Raises:
        ValueError: The device has another name, or this machine does not have it.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    name = str(device or os.environ.get(VARIABLE) or "auto")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    automatic = "cuda" if available["cuda"] else "cpu"  # MPS only by name: nobody has tested it
    kind = automatic if name == "auto" else name.partition(":")[0]
    try:
        found = torch.device(kind if name == "auto" else name)
    except RuntimeError:
        found = None
    if found is None or kind not in KINDS:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if (found.index or 0) >= available[kind]:
        present = [one for one in KINDS if one != "cuda" and available[one]]
        present += [f"cuda:{number}" for number in range(available["cuda"])]
        raise ValueError(f"device must be one that torch finds here ({', '.join(present)}), got {name!r}")
    if kind == "cuda" and found.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return found


def device_name(device: torch.device) -> str:
    """Return a device's name for people, with the number of torch's threads on a CPU."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return f"mps, {platform.machine()}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}"
