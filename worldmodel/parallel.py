"""Training on several processes at once, as torchrun starts them: everybody steps alike, one of them writes.

    torchrun --nproc-per-node 2 -m agents.cli train memory runs/mine

A batch is cut among the processes and gradients are averaged, so that the curve is nearly that of one process with the
same batch (each draws noise of its own, and a VAE's free bits are counted on each process's part).
Without torchrun nothing here does anything. `worldmodel.fit` is the only one who trains.
"""

import os
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor, nn

from worldmodel.batches import each


def join() -> tuple[int, int]:
    """This process's rank, and how many there are; joins torchrun's group if that was not done."""
    if _started() and not group.is_initialized():
        group.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)


def leader() -> bool:
    """Whether this process is the one that writes files and speaks; true where there is only one."""
    if group.is_initialized():
        return group.get_rank() == 0
    return not _started() or int(os.environ["RANK"]) == 0


def _started() -> bool:
    """Whether torchrun started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def device() -> torch.device:
    """The device of this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def part(batch: Any, rank: int, size: int) -> Any:
    """This process's share of a batch: every ``size``-th example."""
    return batch if size == 1 else each(batch, lambda part: part[rank::size])


def weight(batch: Any, size: int) -> Tensor | float:
    """What this process's mean counts among all: its steps (or examples), over the average."""
    if size == 1:
        return 1.0
    mask = getattr(batch, "mask", None)
    mine = torch.tensor(float(len(batch)), device=batch.device) if mask is None else mask.sum()
    total = mine.clone()
    group.all_reduce(total)
    return mine * size / total.clamp(min=1)


def average(tensors: list[Tensor], size: int) -> None:
    """Replace tensors by their mean over all processes, in place."""
    if size == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.all_reduce(flat)
    flat /= size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def agree(module: nn.Module, size: int) -> None:
    """Give every process the first one's weights."""
    if size > 1:
        for tensor in module.state_dict().values():
            group.broadcast(tensor, 0)


def wait(size: int) -> None:
    """Wait until every process is here."""
    if size > 1:
        group.barrier()
