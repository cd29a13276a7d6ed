"""What each rank has of its own, on all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from modelyard_workloads import node_memory


class Gathering:
    """Every rank's tensors on every rank of the process group: as many on each, int32 and of one dimension, but of
    lengths that differ. It is under way while the caller does something else that is no collective.

    Ranks of one node see each other's at once. Else two messages go round: how long they are, and then themselves.
    """

    def __init__(self, own: Sequence[Tensor]) -> None:
        """`own`: tensors (n,) on one device."""
        self._count = len(own)
        lengths = torch.tensor([len(tensor) for tensor in own], dtype=torch.int32, device=own[0].device)
        self._sent = torch.cat([lengths, *own])
        self._memory = node_memory.of_group() if self._sent.is_cpu else None
        if self._memory:
            self._memory.post(self._sent)
            return
        self._lengths = lengths.new_empty(dist.get_world_size(), self._count)
        self._known = dist.all_gather_into_tensor(self._lengths.view(-1), lengths, async_op=True)

    def __call__(self) -> list[list[Tensor]]:
        """For each rank its tensors."""
        if self._memory:
            received: Sequence[Tensor] = self._memory.collect(torch.int32)
            lengths = [each[: self._count].tolist() for each in received]
        else:
            assert self._known is not None
            self._known.wait()
            lengths = self._lengths.tolist()
            longest = self._count + max(map(sum, lengths))
            together = self._sent.new_empty(len(lengths), longest)
            dist.all_gather_into_tensor(together.view(-1), F.pad(self._sent, (0, longest - len(self._sent))))
            received = list(together)
        return [
            list(torch.split(each[self._count : self._count + sum(of_rank)], of_rank))
            for each, of_rank in zip(received, lengths, strict=True)
        ]
