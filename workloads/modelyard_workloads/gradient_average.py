"""What DistributedDataParallel does with a bucket of gradients, for ranks of one node without GPUs."""

import torch
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future

from modelyard_workloads.node_memory import NodeMemory, Sums

# No postponed annotations here: DDP compares those of its hook with the classes.


class GradientAverage:
    """Averages buckets over the ranks. The ranks wait for each other when the last bucket of a backward pass is full,
    and not for each: nothing else computes meanwhile, so waiting earlier would gain nothing.
    """

    def __init__(self, memory: NodeMemory) -> None:
        self._sums = Sums(memory, average=True)
        self._buckets: list[tuple[torch.Tensor, Future[torch.Tensor]]] = []

    def exchange(self, state: None, bucket: GradBucket) -> Future[torch.Tensor]:  # noqa: ARG002 - DDP names it
        """DDP's hook."""
        flat = bucket.buffer()
        future: Future[torch.Tensor] = Future()
        self._buckets.append((flat, future))
        self._sums.put(flat)
        if bucket.is_last():
            self._sums.make()
            for averaged, waiting in self._buckets:
                waiting.set_result(averaged)
            self._buckets = []
        return future
