"""Calibration by several processes of one `torchrun`: who takes what, and adding up the sums."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Shard:
    """This process' share of the work; rank 0 of 1 when there is no torchrun."""

    rank: int = 0
    size: int = 1

    def of(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units[self.rank :: self.size]

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes; all processes must call this together."""
        if self.size > 1:
            import torch.distributed

            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def collect(self, rows: Mapping[int, Sequence[int]], count: int, device: torch.device) -> list[list[int]]:
        """Return all processes' rows of non-negative numbers, in order: `rows` maps an index below `count` to one."""
        import torch

        lengths = torch.zeros(count, dtype=torch.long, device=device)
        for index, row in rows.items():
            lengths[index] = len(row)
        self.add_up(lengths)
        table = torch.zeros(count, int(lengths.max()), dtype=torch.long, device=device)
        for index, row in rows.items():
            table[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        self.add_up(table)
        return [row[:length] for row, length in zip(table.tolist(), lengths.tolist(), strict=True)]


@contextmanager
def joined(device: torch.device) -> Iterator[Shard]:
    """Join the processes that torchrun started (its WORLD_SIZE): NCCL between GPUs, else Gloo."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Shard()
        return
    import torch.distributed

    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Shard(int(os.environ["RANK"]), size)
        # Leave together: a process that ends while another still talks to it can be aborted by Gloo's threads.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
