"""Several processes of one run, as `torchrun` starts them: who they are, and what they do together.

Each process takes its share of every batch; gradients are averaged by DistributedDataParallel, or after a
recorded step, which cannot wait for others while it is replayed, in one call. Only the first process
reports, validates and writes.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.contract import SoftfocusError
from trainer.device import choose_device

__all__ = ["Processes"]


class Processes:
    """This process among those of the run.

    Attributes:
        rank: its number.
        count: how many there are; 1 without torchrun.
        device: where it computes.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.count == 1:
            self.device = choose_device(device)
            return
        local = int(os.environ.get("LOCAL_RANK", 0))
        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        self.device = choose_device(f"cuda:{local}" if on_gpu else "cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if on_gpu else "gloo")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of a batch's positions."""
        return rows.chunk(self.count)[self.rank]

    def require_shares(self, batch_size: int) -> None:
        """Refuse a batch that the processes cannot share equally.

        Raises:
            SoftfocusError: naming the sizes that would do.
        """
        below = batch_size // self.count * self.count
        if below != batch_size:
            fits = f"{below} or {below + self.count}" if below else f"{self.count}"
            raise SoftfocusError(
                f"data.batch_size: {batch_size} samples cannot be shared by {self.count} processes; choose {fits}"
            )

    def wrap(self, student: nn.Module, *, has_unused: bool) -> nn.Module:
        """The student as it is to be called in training."""
        if self.count == 1:
            return student
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(student, device_ids=devices, find_unused_parameters=has_unused)

    def without_sync(self, network: nn.Module) -> AbstractContextManager[object]:
        """Where gradients stay in this process because more are to come."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def average(self, tensors: list[Tensor]) -> None:
        """Put the mean over the processes into each tensor, with one call for all of them."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        parts = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])

    def any(self, value: bool) -> bool:
        """Whether it holds in any process; all must ask at the same step."""
        if self.count == 1:
            return value
        told = torch.tensor(int(value), device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told)

    def mean(self, value: Tensor | float) -> float:
        """The mean over the processes."""
        if self.count == 1:
            return float(value)
        told = torch.as_tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(told)
        return float(told) / self.count

    def leave(self) -> None:
        """Part from the others at the end of the run."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()
