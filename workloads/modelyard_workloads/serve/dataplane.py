"""The data plane: which model is meant, is it ready, does the input fit, and the answer. Knows no protocol.

Adapters translate a request into `InferRequest` and an `InferResponse` into a reply; errors are those of errors.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time_ns
from typing import TYPE_CHECKING, Literal

import numpy as np

from modelyard_workloads.serve.batcher import Dispatch
from modelyard_workloads.serve.errors import InvalidInput, NotFound, NotReady, shown
from modelyard_workloads.serve.explain.explanation import Explanation, as_tensors
from modelyard_workloads.serve.runtimes import Decoder, Explains, ReadsFiles, Runtime
from modelyard_workloads.serve.tensors import Array, Tensor, TensorSpec, check_fits, is_finite

if TYPE_CHECKING:  # it imports torch, which only a loaded language model needs
    from modelyard_workloads.serve.generation.service import GenerationService

_QUICK_TEXTS = 256
_QUICK_BYTES = 20_000  # of all texts of an input

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that may answer: where it comes from, how it computes, how its requests are batched."""

    digest: str
    step: int
    runtime: Runtime
    batcher: Dispatch
    generation: GenerationService | None = None
    explainer: Explains | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """`version` empty: the one that is served; `outputs` None: all; `deadline`: of time.monotonic."""

    model: str
    version: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str] | None
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """The requested outputs, in the order in which they were asked for."""

    model: str
    version: str
    outputs: list[Tensor]


@dataclass
class Statistics:
    """Counts since the start; times in nanoseconds."""

    inferences: int = 0  # rows
    executions: int = 0
    computed: int = 0  # requests that were in a batch
    successes: int = 0
    failures: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_ms: int = 0
    batches: dict[int, tuple[int, int]] = field(default_factory=dict)  # rows -> (executions, ns)

    def batch(self, requests: int, rows: int, waits: list[float], seconds: float) -> None:
        """A batch ran; see BatchObserver."""
        nanoseconds = int(seconds * 1e9)
        self.inferences += rows
        self.executions += 1
        self.computed += requests
        self.queue_ns += int(sum(waits) * 1e9)
        self.compute_ns += nanoseconds * requests
        count, total = self.batches.get(rows, (0, 0))
        self.batches[rows] = (count + 1, total + nanoseconds)

    def step(self, sequences: int, waits: list[float], seconds: float) -> None:
        """A step of a language model; a sequence counts as an inference once."""
        nanoseconds = int(seconds * 1e9)
        self.inferences += len(waits)
        self.executions += 1
        self.computed += len(waits)
        self.queue_ns += int(sum(waits) * 1e9)
        self.compute_ns += nanoseconds * sequences
        count, total = self.batches.get(sequences, (0, 0))
        self.batches[sequences] = (count + 1, total + nanoseconds)

    def request(self, ok: bool, seconds: float) -> None:
        """A request was answered."""
        self.last_ms = time_ns() // 1_000_000
        if ok:
            self.successes += 1
            self.success_ns += int(seconds * 1e9)
        else:
            self.failures += 1
            self.failure_ns += int(seconds * 1e9)


class DataPlane:
    """The one model this server has, under its name and version. Used on the event loop's thread."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.state: State = "LOADING"
        self.statistics = Statistics()
        self.draining = False
        self._loaded: LoadedModel | None = None
        self._reads_files: ReadsFiles | None = None
        self._decoding = asyncio.Semaphore(1)

    @property
    def tokens(self) -> int:
        """Tokens that were read and written since the start; 0 for a model that knows none."""
        generation = self._loaded.generation if self._loaded is not None else None
        return generation.tokens if generation is not None else 0

    def loaded(self, model: LoadedModel) -> None:
        """From now on the model answers."""
        self._loaded = model
        self._reads_files = model.runtime if isinstance(model.runtime, ReadsFiles) else None  # slow to ask, so once
        self.state = "READY"

    def failed(self) -> None:
        """The model will never answer."""
        self.state = "UNAVAILABLE"

    @property
    def ready(self) -> bool:
        """Whether new clients should come here."""
        return self.state == "READY" and not self.draining

    @property
    def why_not_ready(self) -> str:
        """One sentence for whoever asks."""
        if self.draining:
            return "the server is shutting down"
        return "the model is still loading" if self.state == "LOADING" else "the model could not be loaded"

    @property
    def queue_depth(self) -> int:
        """Requests waiting for the model."""
        return self._loaded.batcher.depth if self._loaded else 0

    def check_name(self, name: str, version: str = "") -> None:
        """Raise NotFound unless this server has the model in this version."""
        if name != self.name:
            raise NotFound(f"model {shown(name)} is not here; this server has '{self.name}'")
        if version not in ("", self.version):
            raise NotFound(f"model '{name}' has no version {shown(version)}; it has '{self.version}'")

    def model(self, name: str, version: str = "") -> LoadedModel:
        """The loaded model. Raises NotFound or NotReady."""
        self.check_name(name, version)
        if self._loaded is None:
            raise NotReady(f"model '{name}' is not ready: {self.why_not_ready}")
        return self._loaded

    def announce(self, name: str, version: str = "") -> Callable[[], None]:
        """A request for the model is arriving: see Batcher.announce."""
        return self.model(name, version).batcher.announce()

    async def _decoded(self, runtime: Runtime, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The inputs, those that came as files decoded, one request at a time, off the event loop."""
        files = self._reads_files
        if files is None or all(tensor.datatype != "BYTES" for tensor in inputs):
            return inputs
        specs = {spec.name: spec for spec in runtime.inputs if spec.name in files.decoders}
        decoded = []
        for tensor in inputs:
            spec = specs.get(tensor.name)
            if spec is None or tensor.datatype != "BYTES" or not 0 < tensor.array.size == len(tensor.array):
                decoded.append(tensor)
                continue
            async with self._decoding:
                decoder = files.decoders[spec.name]
                decoded.append(await asyncio.to_thread(_decode_elements, tensor, spec, decoder))
        return decoded

    async def _check(self, runtime: Runtime, arrays: Mapping[str, Array]) -> None:
        """As the runtime does; where there is much text to tokenise, others are answered meanwhile."""
        if not _costly(arrays):
            runtime.check(arrays)
            return
        async with self._decoding:
            await asyncio.to_thread(runtime.check, arrays)

    async def infer(self, request: InferRequest) -> InferResponse:
        """Check the request, compute, choose the outputs. Raises the errors of errors.py."""
        model = self.model(request.model, request.version)
        inputs = await self._decoded(model.runtime, request.inputs)
        arrays, key = _check_inputs(model.runtime.inputs, inputs)
        chosen = _choose_outputs(model.runtime.outputs, request.outputs)
        await self._check(model.runtime, arrays)
        answers = await model.batcher.submit(arrays, key, request.deadline)
        outputs = [Tensor(spec.name, spec.datatype, answers[spec.name]) for spec in chosen]
        for tensor in outputs:
            if not is_finite(tensor.array):
                raise InvalidInput("the model's answer to these values is not a finite number; check the input's scale")
        return InferResponse(model=self.name, version=self.version, outputs=outputs)

    def explainer(self, name: str, version: str = "") -> Explains:
        """Who explains the model's answers. Raises NotFound or NotReady."""
        explainer = self.model(name, version).explainer
        if explainer is None:
            raise NotFound(f"model '{name}' is served without explanations; set explain.enabled to true")
        return explainer

    async def explain(self, request: InferRequest) -> list[Explanation]:
        """As `infer`, why the model answers so, for each row. `outputs` is not looked at."""
        explainer = self.explainer(request.model, request.version)
        runtime = self.model(request.model, request.version).runtime
        arrays, _ = _check_inputs(runtime.inputs, await self._decoded(runtime, request.inputs))
        await self._check(runtime, arrays)
        return await explainer.explain(arrays, request.deadline)

    async def explain_as_tensors(self, request: InferRequest) -> InferResponse:
        """`explain`, and the tensors that `outputs` names."""
        outputs = as_tensors(await self.explain(request))
        if request.outputs is not None:
            by_name = {tensor.name: tensor for tensor in outputs}
            outputs = [by_name[spec.name] for spec in _choose_outputs(_specs(outputs), request.outputs)]
        return InferResponse(model=self.name, version=self.version, outputs=outputs)

    def close(self) -> None:
        """The server ends: so does what it started."""
        if self._loaded is not None and self._loaded.explainer is not None:
            self._loaded.explainer.close()


def _specs(tensors: Sequence[Tensor]) -> list[TensorSpec]:
    return [TensorSpec(tensor.name, tensor.datatype, tensor.array.shape) for tensor in tensors]


def _costly(arrays: Mapping[str, Array]) -> bool:
    """Are there so many or so long texts that looking at them takes more than a few milliseconds?"""
    texts = [array.ravel() for array in arrays.values() if array.dtype == object]
    return any(len(array) > _QUICK_TEXTS or sum(map(len, array)) > _QUICK_BYTES for array in texts)


def _decode_elements(tensor: Tensor, spec: TensorSpec, decoder: Decoder) -> Tensor:
    """BYTES [B] or [B, 1], each element a file, to numbers [B, …]."""
    elements = []
    for index, raw in enumerate(tensor.array.ravel()):
        try:
            elements.append(decoder(raw))
        except InvalidInput as error:
            raise InvalidInput(f"input '{spec.name}', element {index}: {error}") from None
    return Tensor(spec.name, spec.datatype, np.stack(elements))


def _check_inputs(specs: Sequence[TensorSpec], given: Sequence[Tensor]) -> tuple[dict[str, Array], Hashable]:
    """Arrays by name, and the key of requests that can share a batch: same shape behind the batch dimension."""
    if len(specs) == len(given) == 1 and specs[0].name == given[0].name:  # most requests: no need of tables
        array = given[0].array
        check_fits(specs[0], given[0])
        return {specs[0].name: array}, (array.shape[1:],)
    by_name = {tensor.name: tensor for tensor in given}
    if len(by_name) != len(given):
        raise InvalidInput("inputs: a name is given twice")
    known = {spec.name for spec in specs}
    for name in by_name:
        if name not in known:
            raise InvalidInput(f"input {shown(name)} is unknown; the model takes {', '.join(sorted(known))}")
    for spec in specs:
        if spec.name not in by_name:
            if spec.default is None:
                declared = f"{spec.datatype} {list(spec.shape)}"
                raise InvalidInput(f"input '{spec.name}' is missing; the model takes {declared}")
            by_name[spec.name] = _left_out(spec, given)
        check_fits(spec, by_name[spec.name])
    arrays = {spec.name: by_name[spec.name].array for spec in specs}
    if len({len(array) for array in arrays.values()}) != 1:
        raise InvalidInput("inputs: the first dimension is the batch and must be the same in all of them")
    return arrays, tuple(array.shape[1:] for array in arrays.values())


def _left_out(spec: TensorSpec, given: Sequence[Tensor]) -> Tensor:
    """The default in every row."""
    rows = len(given[0].array) if given and given[0].array.ndim else 0
    return Tensor(spec.name, spec.datatype, np.full(rows, spec.default, dtype=object))


def _choose_outputs(specs: Sequence[TensorSpec], asked: Sequence[str] | None) -> list[TensorSpec]:
    if asked is None:
        return list(specs)
    by_name = {spec.name: spec for spec in specs}
    if len(set(asked)) != len(asked):
        raise InvalidInput("outputs: a name is given twice")
    for name in asked:
        if name not in by_name:
            raise InvalidInput(f"output {shown(name)} is unknown; the model gives {', '.join(by_name)}")
    return [by_name[name] for name in asked]
