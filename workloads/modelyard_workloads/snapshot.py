"""The state of a training at one moment, and its form as files.

A state is a tree of dicts, lists, numbers, strings, booleans, None and tensors; its top-level keys are its sections. As
files it is `state.json`, the tree with references in the place of tensors, and one safetensors file for every section
that has some; or, where the ranks share its tensors out and each saves its own slices, one for each of them,
`model-00001-of-00008.safetensors`, which are put together when they are read.

Files are written straight from the snapshot's memory: no second copy is made, and the interpreter is free for the
training meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from modelyard_workloads.copies import Copies
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.sharding import is_slice

STATE_FILE = "state.json"
_REFERENCE = "$tensor"
_SLICED = "$sliced"  # beside a reference: along dimension 0
_INTEGER_KEYS = "$integerKeys"
_PIECE = 8 << 20
# https://github.com/huggingface/safetensors#format
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Snapshot:
    """A state that nothing changes any more."""

    tree: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]  # by file without its ending, then by path; on the CPU

    def names(self) -> list[str]:
        """The files it consists of."""
        return sorted([STATE_FILE, *(f"{stem}.safetensors" for stem in self.tensors)])

    def write(self, name: str, file: BinaryIO) -> tuple[int, str]:
        """Write one of the files; returns its size in bytes and its SHA-256 in hex. Raises OSError."""
        size, digest = 0, hashlib.sha256()
        for content in self._contents(name):
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                digest.update(piece)
                while len(piece):
                    piece = piece[file.write(piece) :]
                moved()
            size += len(content)
        return size, digest.hexdigest()

    def save(self, path: Path) -> tuple[int, str]:
        """Write one file, named as the path is, and fsync it. Raises OSError."""
        with path.open("wb", buffering=0) as file:
            size_and_hash = self.write(path.name, file)
            os.fsync(file.fileno())
        return size_and_hash

    def entry(self, path: Path) -> dict[str, Any]:
        """Write one file as `save` does; what a manifest says of it."""
        size, digest = self.save(path)
        return {"path": path.name, "size": size, "sha256": digest}

    def _contents(self, name: str) -> Iterator[memoryview]:
        if name == STATE_FILE:
            yield memoryview(json.dumps(self.tree, sort_keys=True).encode())
            return
        tensors = self.tensors[name.removesuffix(".safetensors")]
        header, offset = {}, 0
        for path, tensor in tensors.items():
            end = offset + tensor.nbytes
            header[path] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        yield memoryview(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            if tensor.nbytes:
                yield memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


class Camera:
    """Takes snapshots into memory that is kept for the next one: pages that are there already, pinned for a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def take(self, state: dict[str, Any], shared: Collection[str] = (), part: str = "") -> Snapshot:
        """A snapshot of a state, valid until the next one is taken. Sections named in `shared` are not copied: their
        tensors never change. `part` is in the names of the files with this rank's slices. Raises TypeError for what
        cannot be saved.
        """
        tree: dict[str, Any] = {}
        tensors: dict[str, dict[str, Tensor]] = {}
        copies = Copies()
        for section, value in state.items():
            found: dict[str, Tensor] = {}
            tree[section] = _detach(value, "", found)
            if found:
                sliced = any(is_slice(tensor) for tensor in found.values())
                tensors[f"{section}{part}" if sliced else section] = {
                    path: tensor if section in shared else self._copy((section, path), _here(tensor), copies)
                    for path, tensor in found.items()
                }
        copies.make()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # those from its memory were only queued
        return Snapshot(tree, tensors)

    def _copy(self, name: tuple[str, str], tensor: Tensor, copies: Copies) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            # In the layout of the original: so it is one plain copy.
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
            self._buffers[name] = buffer
        copies.add(buffer, tensor)
        return buffer


def decode(files: dict[str, bytes]) -> dict[str, Any]:
    """The state that a snapshot's files hold; tensors are on the CPU."""
    tree: dict[str, Any] = json.loads(files[STATE_FILE])
    state = {}
    for section, value in tree.items():
        names = re.compile(re.escape(section) + r"(-\d{5}-of-\d{5})?\.safetensors")
        parts = [safetensors.torch.load(files[name]) for name in sorted(files) if names.fullmatch(name)]
        state[section] = _attach(value, parts)
    return state


def _detach(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if value.dtype not in _DTYPES:
            raise TypeError(f"{path}: a tensor of {value.dtype} cannot be saved in a checkpoint")
        tensors[path] = value.detach()  # tied weights become two tensors
        return {_REFERENCE: path, _SLICED: True} if is_slice(value) else {_REFERENCE: path}
    if isinstance(value, dict):
        body = {str(k): _detach(v, f"{path}/{k}" if path else str(k), tensors) for k, v in value.items()}
        return {_INTEGER_KEYS: body} if value and all(isinstance(k, int) for k in value) else body
    if isinstance(value, list | tuple):
        return [_detach(v, f"{path}/{i}" if path else str(i), tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved in a checkpoint")


def _here(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if is_slice(tensor) else tensor


def _attach(value: Any, parts: list[dict[str, Tensor]]) -> Any:
    if isinstance(value, list):
        return [_attach(v, parts) for v in value]
    if not isinstance(value, dict):
        return value
    if _SLICED in value:
        return torch.cat([tensors[value[_REFERENCE]] for tensors in parts])
    if _REFERENCE in value:
        return parts[0][value[_REFERENCE]]
    if _INTEGER_KEYS in value:
        return {int(k): _attach(v, parts) for k, v in value[_INTEGER_KEYS].items()}
    return {k: _attach(v, parts) for k, v in value.items()}
