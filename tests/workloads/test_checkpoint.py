"""Checkpoints: whatever happens while one is written or afterwards, the newest good one is found, and only a good
one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_workloads import config as configuration
from modelyard_workloads.checkpoint import CheckpointStore, Run
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.durable import Fence, Fenced
from modelyard_workloads.exits import CheckpointFailed, DataError
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.optimizer import restore_optimizer
from modelyard_workloads.outputs import Outputs
from modelyard_workloads.snapshot import Camera, Snapshot, decode
from trainings.pods import configuration as raw_configuration


def store(
    output: Path, *, fingerprint: str = "f", uid: str = "u-1", attempt: int = 1, keep_last: int = 2
) -> CheckpointStore:
    """The store of one attempt, which has taken the output over."""
    fence = Fence(output, attempt, uid)
    fence.acquire()
    made = CheckpointStore(
        output / "checkpoints",
        uri="pvc://out",
        keep_last=keep_last,
        fence=fence,
        run=Run(fingerprint=fingerprint, uid=uid),
    )
    made.prepare()
    return made


def state(step: int, size: int = 1000) -> dict[str, Any]:
    """A state that says which step it is of in every place."""
    return {
        "loop": {"step": step},
        "model": {"w": torch.full((size,), float(step))},
        "optimizer": {"m": torch.tensor(step)},
    }


def snapshot(step: int, size: int = 1000) -> Snapshot:
    """The state of a step as it is saved."""
    return Camera().take(state(step, size))


def encode(tree: dict[str, Any]) -> dict[str, bytes]:
    """The files of a state."""
    taken, files = Camera().take(tree), {}
    for name in taken.names():
        file = io.BytesIO()
        size, digest = taken.write(name, file)
        files[name] = file.getvalue()
        assert (size, digest) == (len(files[name]), hashlib.sha256(files[name]).hexdigest())
    return files


def newest(output: Path, **arguments: Any) -> int | None:
    """The step that a new process resumes from; the content must be that of the step."""
    loaded = store(output, **arguments).load()
    if loaded is None:
        return None
    info, files = loaded
    sections = decode(files)
    assert sections["loop"]["step"] == info.step
    assert bool((sections["model"]["w"] == info.step).all())
    return info.step


def names(output: Path) -> list[str]:
    """What lies in the checkpoints directory."""
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_a_state_comes_back_as_it_was_saved() -> None:
    tied = torch.randn(3, 4)
    tree: dict[str, Any] = {
        "model": {
            "a": tied,
            "b": tied,
            "transposed": torch.randn(3, 4).t(),
            "half": torch.ones(2, dtype=torch.bfloat16),
        },
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 11: {}},
            "param_groups": [{"betas": (0.9, 0.1), "lr": 1e-3}],
        },
        "loop": {"step": 3, "loss": None, "exact": 0.1 + 0.2, "done": False, "best": {}},
        "average": None,
    }
    back = decode(encode(tree))
    assert torch.equal(back["model"]["a"], tied)
    assert torch.equal(back["model"]["transposed"], tree["model"]["transposed"])
    assert back["model"]["half"].dtype == torch.bfloat16
    assert list(back["optimizer"]["state"]) == [0, 11]
    assert back["optimizer"]["param_groups"] == [{"betas": [0.9, 0.1], "lr": 1e-3}]
    assert back["loop"] == tree["loop"]
    assert back["average"] is None


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match="a/0: a set cannot be saved"):
        encode({"model": {"a": [{1, 2}]}})


def test_an_optimizer_restored_from_files_takes_the_same_steps() -> None:
    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        torch.manual_seed(1)
        weight = torch.nn.Parameter(torch.randn(2, 3, 3, 3).contiguous(memory_format=torch.channels_last))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weight.grad = weight.detach().sin()
        optimizer.step()

    one, two = make(), make()
    for _ in range(3):
        step(*one)
    with torch.no_grad():
        two[0].copy_(one[0])
    restore_optimizer(two[1], decode(encode({"optimizer": one[1].state_dict()}))["optimizer"])
    assert two[1].state[two[0]]["exp_avg"].stride() == two[0].stride()
    for _ in range(2):
        step(*one)
        step(*two)
    assert torch.equal(one[0], two[0])


def test_the_newest_is_found_and_older_ones_are_dropped(tmp_path: Path) -> None:
    saving = store(tmp_path)
    for step in (5, 10, 15):
        info = saving.save(step, snapshot(step))
        assert info.uri == f"pvc://out/checkpoints/step-{step:010d}"
    assert names(tmp_path) == ["step-0000000010", "step-0000000015"]
    assert newest(tmp_path) == 15


def test_without_checkpoints_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert newest(tmp_path) is None


def truncate(path: Path) -> None:
    """Half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "bit flipped", "gone"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    saving = store(tmp_path)
    for step in (5, 10):
        saving.save(step, snapshot(step))
    damage(tmp_path / "checkpoints/step-0000000010" / file)
    assert newest(tmp_path) == 5
    assert names(tmp_path) == ["damaged-step-0000000010", "step-0000000005"]
    # The same step can be reached and saved again.
    store(tmp_path).save(10, snapshot(10))
    assert newest(tmp_path) == 10


def test_every_single_bit_of_a_manifest_is_protected(tmp_path: Path) -> None:
    saving = store(tmp_path)
    saving.save(5, snapshot(5))
    saving.save(10, snapshot(10))
    path = tmp_path / "checkpoints/step-0000000010/manifest.json"
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        assert newest(tmp_path) == 5, bytes(bad)
        (tmp_path / "checkpoints/damaged-step-0000000010").rename(path.parent)
        path.write_bytes(good)
    assert newest(tmp_path) == 10


def test_killed_at_any_moment_of_saving_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    began = time.monotonic()
    store(tmp_path).save(1, snapshot(1, 200_000))
    took = time.monotonic() - began  # on this machine, now
    chance = random.Random(7)
    last = 1
    for _ in range(int(os.environ.get("CHECKPOINT_KILLS", "25"))):
        child = os.fork()
        if child == 0:  # saves as fast as it can until it is killed
            torch.set_num_threads(1)
            saving = store(tmp_path)
            for step in range(last + 1, last + 1000):
                saving.save(step, snapshot(step, 200_000))
            os._exit(0)
        time.sleep(took * chance.uniform(0.2, 3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = newest(tmp_path)
        assert found is not None
        assert found >= last
        assert not any(name.startswith((".tmp", "damaged")) for name in names(tmp_path))
        last = found
    assert last > 1


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_checkpoints_and_no_rest(tmp_path: Path) -> None:
    saving = store(tmp_path)
    saving.save(5, snapshot(5))
    with file_size_limit(20_000), pytest.raises(OSError, match="File too large"):
        saving.save(10, snapshot(10, 100_000))
    assert names(tmp_path) == ["step-0000000005"]
    assert newest(tmp_path) == 5
    saving.save(10, snapshot(10, 100_000))
    assert newest(tmp_path) == 10


def outputs(output: Path, resume: str = "Auto", attempt: int = 1) -> Outputs:
    """The outputs of a training with one rank."""
    raw = raw_configuration(output, {}, attempt=attempt, checkpoint={"resume": resume, "everySteps": 1})
    return Outputs(configuration.parse(raw), Ranks(RankInfo()), Reporter(rank=1, environment={}))


def test_training_goes_on_without_a_periodic_checkpoint_but_does_not_stop_without_the_last(tmp_path: Path) -> None:
    writing = outputs(tmp_path)
    writing.save(1, state(1), required=False)
    with file_size_limit(20_000):
        writing.save(2, state(2, 100_000), required=False)
        with pytest.raises(CheckpointFailed, match="step 2 could not be written"):
            writing.save(2, state(2, 100_000), required=True)
    resumed = outputs(tmp_path).resume()
    assert resumed is not None
    assert resumed["loop"]["step"] == 1


def test_a_checkpoint_is_of_the_moment_it_was_asked_for_whatever_is_trained_while_it_is_written(tmp_path: Path) -> None:
    writing = outputs(tmp_path)
    trained = state(1, 2_000_000)
    writing.save(1, trained, required=False)
    trained["model"]["w"].fill_(7.0)
    trained["loop"]["step"] = 7
    writing.save(1, trained, required=True)  # the same step again: only waits
    saved = outputs(tmp_path).resume()
    assert saved is not None
    assert saved["loop"]["step"] == 1
    assert bool((saved["model"]["w"] == 1).all())


def test_a_snapshot_needs_no_new_memory_and_does_not_copy_what_never_changes() -> None:
    camera, live = Camera(), {"model": {"w": torch.ones(100)}, "best": {"w": torch.ones(100)}}
    first, second = (camera.take(live, shared={"best"}) for _ in range(2))
    addresses = [(s.tensors["model"]["w"].data_ptr(), s.tensors["best"]["w"].data_ptr()) for s in (first, second)]
    assert addresses[0] == addresses[1]
    assert addresses[0][0] != live["model"]["w"].data_ptr()
    assert addresses[0][1] == live["best"]["w"].data_ptr()


def test_what_the_writer_met_is_an_error_of_the_next_step(tmp_path: Path) -> None:
    zombie = outputs(tmp_path)
    outputs(tmp_path, attempt=2)
    zombie.save(1, state(1), required=False)
    with pytest.raises(Fenced):
        until(lambda: not zombie.due(2, ended=False))  # it is due at every step
    assert names(tmp_path) == []


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so, or until it raises; a minute at most."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_other_runs_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(6):
        saving = store(tmp_path, fingerprint=f"f-{number}")
        saving.load()
        saving.save(5, snapshot(5))
    assert len([name for name in names(tmp_path) if name.startswith("other-")]) == 2
    assert newest(tmp_path, fingerprint="f-5") == 5


def test_a_required_checkpoint_that_is_not_there_is_an_error_in_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"checkpoint\.resume is Required"):
        outputs(tmp_path, "Required").resume()
    outputs(tmp_path).save(1, state(1), required=True)
    assert outputs(tmp_path, "Required").resume() is not None


def test_never_starts_over_and_its_own_new_checkpoints_count(tmp_path: Path) -> None:
    first = outputs(tmp_path)
    first.save(8, state(8), required=True)
    again = outputs(tmp_path, "Never", attempt=2)
    assert again.resume() is None
    again.save(2, state(2), required=True)
    assert names(tmp_path) == ["step-0000000002"]


def test_a_run_with_other_parameters_does_not_resume_and_does_not_destroy_what_was_there(tmp_path: Path) -> None:
    store(tmp_path).save(50, snapshot(50))
    assert newest(tmp_path, fingerprint="other", uid="u-2") is None
    assert names(tmp_path) == ["other-step-0000000050"]


def test_the_same_training_applied_again_resumes(tmp_path: Path) -> None:
    store(tmp_path, attempt=3).save(50, snapshot(50))
    assert newest(tmp_path, uid="u-2", attempt=1) == 50


def test_a_lower_attempt_can_neither_start_nor_go_on_writing(tmp_path: Path) -> None:
    zombie = store(tmp_path, attempt=1)
    zombie.save(5, snapshot(5))
    current = store(tmp_path, attempt=2)
    with pytest.raises(Fenced):
        zombie.save(10, snapshot(10))
    with pytest.raises(Fenced, match="attempt 1 may not write"):
        store(tmp_path, attempt=1)
    current.save(7, snapshot(7))
    assert newest(tmp_path, attempt=2) == 7


def test_a_training_applied_again_fences_off_the_processes_of_the_deleted_one(tmp_path: Path) -> None:
    deleted = store(tmp_path, uid="u-1", attempt=4)
    store(tmp_path, uid="u-2", attempt=1).save(3, snapshot(3))
    with pytest.raises(Fenced):
        deleted.save(99, snapshot(99))
    assert json.loads((tmp_path / "fence.json").read_bytes()) == {"attempt": 1, "uid": "u-2"}
