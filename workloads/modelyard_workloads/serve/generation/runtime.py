"""From an artifact to an engine, and the engine as a model of the data plane: texts in, texts out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping

import numpy as np
import torch

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.decoder_huggingface import read_directory
from modelyard_workloads.models.uninitialised import with_weights
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.errors import InvalidInput, LoadFailure
from modelyard_workloads.serve.generation.engine import Engine, EngineLimits
from modelyard_workloads.serve.generation.language import Language
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from modelyard_workloads.serve.generation.service import GenerationService
from modelyard_workloads.serve.tensors import Array, TensorSpec

TASK = "causal-lm"
TEXT_IN, TEXT_OUT = "text_input", "text_output"
INFER_TOKENS = 16  # of an answer where a request cannot say how many
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_STEP_TOKENS = {"cpu": 256, "cuda": 8192}  # a step with so many lasts some tens of milliseconds


class GenerationRuntime:
    """A language model: `text_input` BYTES [-1] -> `text_output` BYTES [-1], the most probable answers."""

    task = TASK
    labels: tuple[str, ...] = ()
    inputs = (TensorSpec(TEXT_IN, "BYTES", (-1,)),)
    outputs = (TensorSpec(TEXT_OUT, "BYTES", (-1,)),)

    def __init__(self, engine: Engine, language: Language) -> None:
        self.engine = engine
        self.language = language

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Texts must be UTF-8."""
        _texts(arrays)

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """All texts in one run; only while no service uses the engine."""
        codec, sampling = self.language.codec, _most_probable(self.language)
        sequences = [Sequence(key, codec.encode(text), sampling) for key, text in enumerate(_texts(arrays))]
        answers = self.engine.run(sequences)
        return {TEXT_OUT: _column("".join(piece.text for piece in answers[s.key]) for s in sequences)}


class GenerationDispatch:
    """The data plane's way to the service, for requests that are tensors."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return self._service.depth

    def announce(self) -> Callable[[], None]:
        """Nothing waits for company here: every step takes up who is there."""
        return lambda: None

    async def submit(self, arrays: Mapping[str, Array], key: Hashable, deadline: float) -> dict[str, Array]:  # noqa: ARG002
        """The most probable continuations of the texts, a few tokens each; see `Batcher.submit`."""
        language = self._service.language
        sampling = _most_probable(language)
        self._service.check_room(len(arrays[TEXT_IN]))
        asks = []
        for text in _texts(arrays):
            asks.append((await language.encode(text), sampling))
            await asyncio.sleep(0)  # many quick texts are not quick together
        parts: list[list[str]] = [[] for _ in asks]
        with self._service.open(asks, deadline) as generation:
            async for arrived in generation:
                for index, piece in arrived:
                    parts[index].append(piece.text)
        return {TEXT_OUT: _column("".join(part) for part in parts)}


def build_generation_runtime(artifact: Artifact, config: ServeConfig) -> GenerationRuntime:
    """The engine of an artifact in Hugging Face's layout, with all of its memory. Raises LoadFailure."""
    model, language = load_decoder(artifact, dtype=_DTYPES[config.generation.dtype])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = _limits(config, model.config.context, device)
    return GenerationRuntime(Engine(model, language.codec, limits, device), language)


def load_decoder(artifact: Artifact, *, dtype: torch.dtype = torch.float32) -> tuple[Decoder, Language]:
    """The model of an artifact in Hugging Face's layout, on the CPU, and its language. Raises LoadFailure."""
    try:
        model_config, weights = read_directory(artifact.path, dtype=dtype)
        language = Language.read(artifact.path, model_config.vocabulary)
    except (DataError, OSError, ValueError) as error:
        raise LoadFailure("ModelLoadFailed", str(error)) from None
    model = with_weights(lambda: _empty(model_config, dtype), weights)
    model.tie_head()
    return model, language


def _empty(config: DecoderConfig, dtype: torch.dtype) -> Decoder:
    """Parameters of this type; the angles of positions stay float32, which large positions need."""
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        parameter.data = parameter.data.to(dtype)
    return decoder


def _limits(config: ServeConfig, context: int, device: torch.device) -> EngineLimits:
    asked = config.generation
    if asked.max_model_len > context:
        raise LoadFailure(
            "ModelLoadFailed",
            f"generation.maxModelLen is {asked.max_model_len}, the model was built for {context} tokens:"
            f" write at most {context}, or 0",
        )
    concurrency = config.limits.container_concurrency or asked.max_num_seqs
    return EngineLimits(
        max_length=asked.max_model_len or context,
        max_sequences=min(asked.max_num_seqs, concurrency),
        max_step_tokens=max(_STEP_TOKENS[device.type], asked.max_num_seqs),
        cache_bytes=asked.kv_cache_memory,
        prefix_caching=asked.prefix_caching,
    )


def _most_probable(language: Language) -> Sampling:
    return Sampling(max_tokens=INFER_TOKENS, temperature=0, stop_tokens=language.ends)


def _texts(arrays: Mapping[str, Array]) -> list[str]:
    texts = []
    for index, raw in enumerate(arrays[TEXT_IN]):
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(bytes(raw).decode())
            continue
        raise InvalidInput(f"input '{TEXT_IN}', element {index} is not UTF-8")
    return texts


def _column(texts: Iterable[str]) -> Array:
    encoded = [text.encode() for text in texts]
    column = np.empty(len(encoded), dtype=object)
    column[:] = encoded
    return column
