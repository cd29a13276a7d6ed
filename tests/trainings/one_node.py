"""A rank of some that share a node, for test_node_memory.py: `python -m trainings.one_node CASE`. Prints what the test
looks at as JSON; fails when an answer is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_workloads import node_blocks, node_memory
from modelyard_workloads.distributed import RankInfo, Ranks, peer_lost
from modelyard_workloads.exits import PeerLost
from modelyard_workloads.gathering import Gathering
from modelyard_workloads.node_memory import TOGETHER, NodeMemory
from torch import Tensor, nn

LARGE = TOGETHER // 4 * 2 + 3  # float32 numbers, which take three turns to add up


def drawn(rank: int, *shape: int) -> Tensor:
    """The numbers of a rank, which every rank can draw."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rank))


def agreements(ranks: Ranks) -> dict[str, Any]:
    """What the loop asks the ranks."""
    last = ranks.world_size - 1
    return {
        "agree": ranks.agree(ranks.rank == last, False),
        "maximum": ranks.maximum(10 + ranks.rank),
        "sum": ranks.sum(torch.tensor([1.0, ranks.rank])).tolist(),
        "gather": [part.decode() for part in ranks.gather(b"x" * ranks.rank)],
    }


def sums(ranks: Ranks) -> dict[str, Any]:
    """Whatever the shape, the type and the size, sums are the sums, and the same to the last bit on all ranks."""
    count = range(ranks.world_size)
    for shape in [(0,), (1,), (7, 3), (LARGE,)]:
        found = ranks.all_reduce(drawn(ranks.rank, *shape))
        torch.testing.assert_close(found, sum((drawn(rank, *shape) for rank in count), torch.zeros(shape)))
        assert ranks.broadcast(found.numpy().tobytes()) == found.numpy().tobytes()
    turned = drawn(ranks.rank, 5, 9).double().T
    torch.testing.assert_close(ranks.all_reduce(turned), sum(drawn(rank, 5, 9).double().T for rank in count))
    return {}


def uneven(ranks: Ranks) -> dict[str, Any]:
    """Lists of tensors of which some are empty."""
    own = [torch.full((ranks.rank * 1000,), ranks.rank, dtype=torch.int32), torch.tensor([7, 8], dtype=torch.int32)]
    for _ in range(3):
        found = Gathering(own)()
    return {"found": [[len(part) for part in parts] for parts in found], "last": int(found[-1][0][-1])}


def waits(ranks: Ranks) -> dict[str, Any]:
    """How often a rank waits for the others in a step, and the same gradients with many buckets as with one."""
    torch.manual_seed(3)
    plain = nn.Sequential(*[nn.Linear(600, 600) for _ in range(8)])  # 11 MB: the first bucket has one
    wrapped = ranks.wrap(plain)
    counted: list[NodeMemory] = []
    wait = NodeMemory.wait

    def count(memory: NodeMemory) -> None:
        counted.append(memory)
        wait(memory)

    for _ in range(3):  # DDP puts its buckets in order after the first
        with pytest.MonkeyPatch.context() as patch:
            counted.clear()
            patch.setattr(NodeMemory, "wait", count)
            plain.zero_grad()
            wrapped(drawn(ranks.rank, 4, 600)).square().mean().backward()
    averaged = [parameter.grad.clone() for parameter in plain.parameters() if parameter.grad is not None]
    plain.zero_grad()
    together = torch.cat([drawn(rank, 4, 600) for rank in range(ranks.world_size)])
    plain(together).square().mean().backward()
    for found, parameter in zip(averaged, plain.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
    return {"waits": len(counted)}


def gone(ranks: Ranks) -> dict[str, Any]:
    """A rank that ends in a step, without a word."""
    wrapped = ranks.wrap(nn.Linear(4, 1))
    loss = wrapped(drawn(ranks.rank, 2, 4)).mean()
    if ranks.rank == 1:
        os._exit(0)
    try:
        loss.backward()
    except RuntimeError as error:
        os.write(1, json.dumps({"lost": str(peer_lost(error))}).encode())
        os._exit(0)  # the group is broken
    raise AssertionError("nobody missed it")


def late(ranks: Ranks) -> dict[str, Any]:
    """A rank that does not come for longer than one waits."""
    blocks = node_blocks.meet()
    assert blocks is not None
    impatient = NodeMemory(ranks.rank, *blocks, seconds=0.2)
    lost = ""
    if ranks.rank == 0:
        try:
            impatient.gather(torch.zeros(1))
        except PeerLost as error:
            lost = str(error)
    ranks.barrier()
    return {"lost": lost}


CASES = {case.__name__: case for case in (agreements, sums, uneven, waits, gone, late)}


def main() -> None:
    """Run the case that is named; the ranks that are named too have no shared memory."""
    case, refusing = sys.argv[1], sys.argv[2:]
    ranks = Ranks(RankInfo.from_environment(os.environ))
    with pytest.MonkeyPatch.context() as patch:
        if str(ranks.rank) in refusing:
            patch.delattr(os, "memfd_create")
        ranks.start()
    assert (node_memory.of_group() is None) == bool(refusing)
    said = CASES[case](ranks)
    ranks.stop()
    files = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    said["left"] = [str(file) for file in files if "memfd:" in str(file)]
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
