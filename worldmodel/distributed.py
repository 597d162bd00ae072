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

from worldmodel.batches import tree_map


def init() -> tuple[int, int]:
    """This process's rank, and how many there are; joins torchrun's group if that was not done."""
    if _launched_by_torchrun() and not group.is_initialized():
        group.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)


def is_main_process() -> bool:
    """Whether this process is the one that writes files and speaks; true where there is only one."""
    if group.is_initialized():
        return group.get_rank() == 0
    return not _launched_by_torchrun() or int(os.environ["RANK"]) == 0


def _launched_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def device() -> torch.device:
    """The device of this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def shard(batch: Any, rank: int, world_size: int) -> Any:
    """This process's share of a batch: every ``world_size``-th example."""
    return batch if world_size == 1 else tree_map(batch, lambda part: part[rank::world_size])


def batch_weight(batch: Any, world_size: int) -> Tensor | float:
    """What this process's mean counts among all: its steps (or examples), over the average."""
    if world_size == 1:
        return 1.0
    mask = getattr(batch, "mask", None)
    mine = torch.tensor(float(len(batch)), device=batch.device) if mask is None else mask.sum()
    total = mine.clone()
    group.all_reduce(total)
    return mine * world_size / total.clamp(min=1)


def all_reduce_mean(tensors: list[Tensor], world_size: int) -> None:
    """Replace tensors by their mean over all processes, in place."""
    if world_size == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.all_reduce(flat)
    flat /= world_size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast(module: nn.Module, world_size: int) -> None:
    """Give every process the first one's weights."""
    if world_size > 1:
        for tensor in module.state_dict().values():
            group.broadcast(tensor, 0)


def barrier(world_size: int) -> None:
    """Wait until every process is here."""
    if world_size > 1:
        group.barrier()
