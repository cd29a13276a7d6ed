"""The ranks of one training: start-up, agreement, and the few collectives the loop needs.

Models know nothing of this: `wrap` puts DistributedDataParallel around them, which averages the gradients. Buffers
(the running statistics of batch normalisation) are rank 0's: the loop broadcasts them before it evaluates, and rank 0
saves, so that there is one model, not one for each rank. Training does not read them, so DDP need not make every
forward pass wait for them.

Only bytes and tensors travel, never pickled objects.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from modelyard_workloads import eager, node_memory
from modelyard_workloads.exits import PeerLost, PodError
from modelyard_workloads.gradient_average import GradientAverage
from modelyard_workloads.hardware import available_cores
from modelyard_workloads.node_memory import NodeMemory
from modelyard_workloads.watchdog import DEADLINE_VARIABLE

STARTUP_SECONDS = 300.0
PATIENCE_SECONDS = 86_400.0  # where nobody watches the progress
# What the libraries say when the other end went away; the cause is in the other rank's log.
_PEER_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "remote process exited",
)


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """This process among its peers, as the launcher (or torchrun) says in the environment."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RankInfo:
        """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. Raises PodError when one is no number or they
        contradict.
        """

        def number(name: str, default: int) -> int:
            text = environment.get(name, str(default))
            if not text.isdecimal():
                raise PodError(f"{name}={text!r} must be a number")
            return int(text)

        info = cls(
            rank=number("RANK", 0),
            world_size=number("WORLD_SIZE", 1),
            local_rank=number("LOCAL_RANK", 0),
            local_world_size=number("LOCAL_WORLD_SIZE", 1),
        )
        if info.rank >= info.world_size or info.local_rank >= info.local_world_size:
            raise PodError(f"{info} is impossible: ranks are counted from 0")
        return info


class Ranks:
    """The process group (none when there is one rank) and this rank's device."""

    def __init__(self, info: RankInfo) -> None:
        self.info = info
        self.rank = info.rank
        self.world_size = info.world_size
        self.is_main = info.rank == 0
        self.device = torch.device("cuda", info.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        self._memory: NodeMemory | None = None

    def start(self) -> None:
        """Join the others at MASTER_ADDR:MASTER_PORT; retries for at most STARTUP_SECONDS. Raises PodError when it
        takes longer.
        """
        if "OMP_NUM_THREADS" not in os.environ:  # torchrun and bare processes; the launcher sets it
            torch.set_num_threads(max(1, available_cores() // self.info.local_world_size))
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world_size == 1:
            return
        _wait_for_name(os.environ.get("MASTER_ADDR", "localhost"))
        patience = _collective_seconds(os.environ)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            meeting = timedelta(seconds=STARTUP_SECONDS)
            store, _, _ = next(rendezvous("env://", self.rank, self.world_size, timeout=meeting))
            dist.init_process_group(
                backend,
                store=store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(seconds=patience),
            )
            if self.info.local_world_size == self.world_size:
                self._memory = node_memory.meet(seconds=patience)
            self.barrier()
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise PodError(
                f"the {self.world_size} ranks did not meet within {STARTUP_SECONDS:.0f} s: {error}"
            ) from None

    def stop(self) -> None:
        """Leave the group; only after a success, since the others are waited for."""
        node_memory.part()
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with averaged gradients; itself when there is one rank."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        with eager.constructing():
            wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = False  # the argument has another name from torch 2.15 on
        if self._memory and self.device.type == "cpu":
            wrapped.register_comm_hook(None, GradientAverage(self._memory).exchange)
        return wrapped

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.agree(False)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag: has any rank raised it? The answer is the same on all ranks."""
        if self.world_size == 1:
            return flags
        values = self._largest(torch.tensor(flags, dtype=torch.int32))
        return tuple(bool(value) for value in values.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the ranks, on the CPU."""
        return self.all_reduce(values.detach().to("cpu", copy=True))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Element-wise sum over the ranks, in place, on the tensor's own device."""
        if self._memory and values.is_cpu:
            self._memory.add(values)
        elif self.world_size > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, value: int) -> int:
        """The largest of the ranks' numbers."""
        if self.world_size == 1:
            return value
        return int(self._largest(torch.tensor([value])))

    def _largest(self, values: Tensor) -> Tensor:
        """Element-wise maximum over the ranks."""
        if self._memory:
            return torch.stack(self._memory.gather(values)).amax(dim=0)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def broadcast(self, content: bytes | None) -> bytes:
        """Rank 0's bytes on every rank; the others pass None."""
        return broadcast_bytes(content)

    def gather(self, content: bytes) -> list[bytes]:
        """Every rank's bytes, in rank order, on every rank; for small things."""
        if self.world_size == 1:
            return [content]
        if self._memory:
            return [part.numpy().tobytes() for part in self._memory.gather(_tensor(content))]
        size = torch.tensor([len(content)])
        sizes = [torch.zeros_like(size) for _ in range(self.world_size)]
        dist.all_gather(sizes, size)
        longest = max(int(s) for s in sizes)
        data = torch.zeros(longest, dtype=torch.uint8)
        data[: len(content)] = _tensor(content)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(parts, data)
        return [part[: int(s)].numpy().tobytes() for part, s in zip(parts, sizes, strict=True)]


def broadcast_bytes(content: bytes | None) -> bytes:
    """Rank 0's bytes on every rank of the process group, if there is one; the others pass None."""
    if not dist.is_initialized():
        return content or b""
    size = torch.tensor([len(content or b"")])
    dist.broadcast(size, src=0)
    data = torch.empty(int(size), dtype=torch.uint8)
    if dist.get_rank() == 0 and content:
        data = _tensor(content)
    if len(data):
        dist.broadcast(data, src=0)
    return data.numpy().tobytes()


def _tensor(content: bytes) -> Tensor:
    """The bytes (n,); PyTorch makes no tensor of an empty buffer."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def peer_lost(error: BaseException) -> PeerLost | None:
    """The PeerLost behind an error of the communication libraries, or None when the error is this rank's own."""
    if isinstance(error, PeerLost):
        return error
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_LOST):
        return PeerLost(str(error).splitlines()[0])
    return None


def _collective_seconds(environment: Mapping[str, str]) -> float:
    """How long a collective may wait for a rank. A slow rank is no error: it is the operator that ends a standstill,
    after the stacks were taken, so the libraries must be more patient than it.
    """
    deadline = environment.get(DEADLINE_VARIABLE, "")
    return max(STARTUP_SECONDS, 2 * int(deadline)) if deadline.isdecimal() else PATIENCE_SECONDS


def _wait_for_name(host: str) -> None:
    """The name of rank 0 appears in DNS some seconds after its pod; wait for it instead of failing the attempt."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise PodError(
                    f"MASTER_ADDR={host} did not appear in DNS within {STARTUP_SECONDS:.0f} s: {error}"
                ) from None
        time.sleep(0.5)
