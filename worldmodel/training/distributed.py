"""Distributed training on several processes that torchrun starts; the main process writes the files.

    torchrun --nproc-per-node 2 -m worldmodel.agents.cli.main train memory runs/mine

Each process takes a part of the batch, and gradients are averaged. The learning curve is close to that of one process with
the same batch; noise and the free bits of a VAE differ, because each process computes them on its part. Without torchrun these
functions do nothing. `worldmodel.training.trainer` uses them.

`torch.nn.parallel.DistributedDataParallel` is not used: it wraps ``forward`` where these models train by ``loss``, it renames
their weights, and it expects a gradient of every parameter or searches for those without. Here one message after the backward
pass averages the gradients together with the losses, weighted by the valid steps of each process.
"""

import os
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor, nn

from worldmodel.batches import leaves, mask_of, tree_map


def init() -> tuple[int, int]:
    """Join torchrun's process group if needed; return the rank of this process and the number of processes."""
    if _launched_by_torchrun() and not group.is_initialized():
        group.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)


def is_main_process() -> bool:
    """Return whether this process writes files and messages; true for a single process."""
    if group.is_initialized():
        return group.get_rank() == 0
    return not _launched_by_torchrun() or int(os.environ["RANK"]) == 0


def _launched_by_torchrun() -> bool:
    """Return whether torchrun started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def shard(batch: Any, rank: int, world_size: int) -> Any:
    """Return the part of a batch for this process: every ``world_size``-th example.

    Raises:
        ValueError: the batch has fewer examples than there are processes.
    """
    if (examples := len(leaves(batch)[0])) < world_size:
        raise ValueError(f"data must have batches of at least {world_size} examples, one a process, got {examples}")
    return batch if world_size == 1 else tree_map(batch, lambda part: part[rank::world_size])


def batch_weight(batch: Any, world_size: int) -> Tensor | float:
    """Return the weight of this process's mean loss: its number of steps (or examples) over the average of all processes."""
    if world_size == 1:
        return 1.0
    mask, first = mask_of(batch), leaves(batch)[0]
    mine = first.new_tensor(float(len(first)), dtype=torch.float32) if mask is None else mask.sum()
    total = mine.clone()
    group.all_reduce(total)
    return mine * world_size / total.clamp(min=1)


def all_reduce_mean(tensors: list[Tensor], world_size: int) -> None:
    """Replace tensors in place by their mean over all processes."""
    if world_size == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.all_reduce(flat)
    flat /= world_size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast(module: nn.Module, world_size: int) -> None:
    """Copy the weights of the first process to all processes."""
    if world_size > 1:
        for tensor in module.state_dict().values():
            group.broadcast(tensor, 0)


def barrier(world_size: int) -> None:
    """Wait until all processes reach this call."""
    if world_size > 1:
        group.barrier()
