"""Causal language models: GPT-2 and Llama, trained from nothing or fine-tuned, whole or by adapters."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from modelyard_workloads.artifact import (
    MANIFEST_NAME,
    Architecture,
    Artifact,
    ArtifactError,
    ArtifactInvalid,
    Description,
    Golden,
    TensorSpec,
    TensorValue,
    read_artifact,
)
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.bpe import CHAT_TEMPLATE, TOKENIZER, TextTokenizer, read_tokenizer
from modelyard_workloads.data.language_documents import Documents
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.shared_files import make_for_all
from modelyard_workloads.data.sources import MODEL, open_source
from modelyard_workloads.data.tokens import IGNORED, TokenBatch, TokenBatches, TokenRows, on_device, prepare
from modelyard_workloads.estimates.demand import Demand
from modelyard_workloads.estimates.transformers import Arithmetic, decoder_demand
from modelyard_workloads.exits import ConfigError, DataError, Issue
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.decoder_huggingface import (
    CONFIG,
    WEIGHTS,
    huggingface_config,
    read_directory,
    to_huggingface,
)
from modelyard_workloads.models.lora import add_adapters, merge
from modelyard_workloads.models.next_token import NextTokenLoss
from modelyard_workloads.models.uninitialised import with_weights
from modelyard_workloads.parameters.causal_lm import CausalLmParameters
from modelyard_workloads.sharding import shard
from modelyard_workloads.tasks.base import Objective

logger = logging.getLogger(__name__)

_DEFAULT_CONTEXT, _LARGEST_DEFAULT_CONTEXT = 256, 1024
_EVALUATION_TOKENS = 8192  # of a batch
_GOLDEN_ROWS, _GOLDEN_TOKENS, _GREEDY_TOKENS = 2, 8, 16
_OF_THE_MODEL = ("architecture", "size", "layers", "width", "heads", "key_value_heads", "vocabulary_size", "dropout")


class CausalLmTask:
    """The Task of `causal-lm`; see `tasks.base.Task` for the order of calls."""

    strict: Literal[True] = True

    def __init__(self, config: TrainingConfig) -> None:
        """Raises ConfigError where parameters and model.uri contradict each other."""
        assert isinstance(config.parameters, CausalLmParameters)
        self._parameters = config.parameters
        self._dataset_uri = config.dataset.uri
        self._model_uri = config.model.uri
        self._prepared_root = config.output.path / "prepared"
        text = self._parameters.data_format == "text"
        self.objective = Objective(metric="bitsPerByte" if text else "evaluationLoss", higher_is_better=False)
        self._given: tuple[DecoderConfig, dict[str, Tensor]] | None = None
        self._model: NextTokenLoss
        self._rows: dict[str, TokenRows]
        self._tokenizer: TextTokenizer
        self._byte_lengths: Tensor
        self._shard: Shard
        self._device: torch.device
        _check(self._parameters, self._model_uri)

    def build_data(self, shard: Shard, device: torch.device) -> TokenBatches:
        """Tokens once made, mapped into memory. A collective call."""
        parameters = self._parameters
        self._shard, self._device = shard, device
        model_directory = _model_directory(self._model_uri) if self._model_uri else None
        self._given = read_directory(model_directory) if model_directory else None
        length = self._length()
        tokenizer = self._given_tokenizer(model_directory)
        documents = Documents(self._dataset_uri, parameters)
        key = _key(documents, tokenizer, parameters, length) if shard.rank == 0 else ""
        directory = make_for_all(
            self._prepared_root, key, lambda path: prepare(path, documents, tokenizer, parameters, length)
        )
        self._tokenizer = read_tokenizer(directory)
        self._byte_lengths = torch.from_numpy(self._tokenizer.byte_lengths()).to(device)
        apart = parameters.document_mask or parameters.data_format != "text"
        self._rows = {
            part: TokenRows(directory, part, length=length, end=self._tokenizer.end, apart=apart)
            for part in ("train", "held-out")
        }
        return TokenBatches(self._rows["train"], shard, device, batch_size=parameters.batch_size, seed=parameters.seed)

    def demand(self) -> Demand:
        """See `tasks.base.Estimated`."""
        parameters, config = self._parameters, self._given[0] if self._given else self._new_config()
        by = Arithmetic.of(parameters, self._device)
        return decoder_demand(config, self._length(), parameters, by, ranks=self._shard.world_size)

    def build_model(self) -> NextTokenLoss:
        """A decoder with its loss; with adapters, the decoder's weights are frozen and are no part of its state."""
        parameters = self._parameters
        if self._given is None:
            decoder = Decoder(self._new_config())
        else:
            config, weights = self._given
            if self._tokenizer.size > config.vocabulary:
                raise DataError(
                    f"the tokenizer has {self._tokenizer.size} tokens, the model of model.uri {config.vocabulary}"
                )
            decoder = Decoder(config)
            decoder.load_state_dict(weights)
            self._given = (config, {})  # the model has them now
        if lora := parameters.lora:
            add_adapters(decoder, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, layers=lora.layers)
        self._model = NextTokenLoss(decoder, label_smoothing=parameters.label_smoothing)
        return self._model

    def share_out(self, model: nn.Module, device: torch.device) -> bool:
        """See `tasks.base.Shardable`: block by block."""
        if self._parameters.sharding == "none":
            return False
        assert isinstance(model, NextTokenLoss)
        shard(model, model.decoder.blocks, device)
        return True

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Cross-entropy a token; its mean over the ranks is that of the global batch."""
        summed: Tensor = model(batch.inputs, batch.targets, batch.documents)
        return summed * batch.scale

    def work_per_step(self) -> dict[str, float]:
        """Tokens, and floating-point operations of the matrix products: 6 for each weight and token, 4 where it is
        frozen (Kaplan et al., 2020, section 2.1; attention itself is not counted).
        """
        tokens = self._parameters.batch_size * self._length()
        each = sum(p.numel() * (6.0 if p.requires_grad else 4.0) for p in self._model.parameters())
        return {"tokens": tokens, "flops": tokens * each}

    def evaluation(self) -> Iterator[TokenBatch]:
        """This rank's share of the held-out rows."""
        rows = self._rows["held-out"]
        count = min(len(rows), max(1, self._parameters.evaluation_tokens // rows.length))
        mine = self._shard.stride(count).numpy()
        together = max(1, _EVALUATION_TOKENS // rows.length)
        for start in range(0, len(mine), together):
            yield on_device(rows.batch(mine[start : start + together], 1, 1), self._device)

    def measure(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """[summed cross-entropy in nats, learned tokens, bytes that they stand for]"""
        loss = model(batch.inputs, batch.targets, batch.documents)
        learned = batch.targets[batch.targets != IGNORED]
        counts = torch.stack([torch.tensor(len(learned), device=learned.device), self._byte_lengths[learned].sum()])
        return torch.cat([loss.double().reshape(1), counts.double()])

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Mean cross-entropy of a held-out token in nats, and bits for each byte of the text."""
        loss, tokens, size = sums.tolist()
        return {"evaluationLoss": loss / tokens, "bitsPerByte": loss / math.log(2) / max(1.0, size)}

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """A directory that transformers loads as it is, adapters merged, with the tokenizer and the chat template."""
        decoder = self._model.decoder
        config = decoder.config
        own = {name.removeprefix("decoder."): value for name, value in weights.items()}
        if self._parameters.lora:
            own = merge(decoder, own)
        theirs = {name: _plain(value) for name, value in to_huggingface(config, own).items()}
        safetensors.torch.save_file(theirs, directory / WEIGHTS, metadata={"format": "pt"})
        raw = huggingface_config(config, end_token=self._tokenizer.end)
        (directory / CONFIG).write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n")
        self._tokenizer.save(directory, context=config.context)
        served = ServedCausalLm(_load(directory))
        prompts = self._prompts()
        return Description(
            task="causal-lm",
            architecture=Architecture(name=config.family, config={"contextLength": config.context}),
            weights=[WEIGHTS],
            preprocess={
                "tokenizer": TOKENIZER,
                "chatTemplate": CHAT_TEMPLATE,
                "endTokens": [self._tokenizer.end],
                "greedy": served.continue_greedily(prompts, _GREEDY_TOKENS),
            },
            inputs=[TensorSpec(name="input_ids", datatype="INT64", shape=[-1, -1])],
            outputs=[TensorSpec(name="logits", datatype="FP32", shape=[-1, config.vocabulary])],
            golden=[_golden(prompts, served)],
        )

    def _prompts(self) -> Tensor:
        rows = self._rows["held-out"]
        tokens, _ = rows.read(np.arange(min(_GOLDEN_ROWS, len(rows))))
        return torch.from_numpy(tokens[:, : min(_GOLDEN_TOKENS, rows.length)].astype(np.int64))

    def _length(self) -> int:
        asked = self._parameters.context_length
        if self._given is None:
            return asked or _DEFAULT_CONTEXT
        longest = self._given[0].context
        if asked and asked > longest:
            message = f"{asked} is more than the {longest} tokens that the model of model.uri can read; write {longest}"
            raise ConfigError([Issue("parameters.contextLength", f"{message} or less")])
        return asked or min(longest, _LARGEST_DEFAULT_CONTEXT)

    def _given_tokenizer(self, model_directory: Path | None) -> TextTokenizer | None:
        """The tokenizer that the configuration names, or None when one is to be trained."""
        if self._parameters.tokenizer:
            source = open_source(self._parameters.tokenizer)
            source.select((TOKENIZER,))
            return read_tokenizer(source.local_directory())
        if model_directory is None:
            return None
        if not (model_directory / TOKENIZER).is_file():
            raise DataError(f"model.uri: {self._model_uri} has no {TOKENIZER}; name one by the parameter tokenizer")
        return read_tokenizer(model_directory)

    def _new_config(self) -> DecoderConfig:
        parameters = self._parameters
        layers, width, heads = parameters.shape
        vocabulary = -(-self._tokenizer.size // 64) * 64  # matrix products like round numbers
        build = DecoderConfig.gpt2
        if parameters.architecture == "llama":
            build = partial(DecoderConfig.llama, key_value_heads=parameters.key_value_heads)
        return build(
            vocabulary=vocabulary,
            context=self._length(),
            layers=layers,
            width=width,
            heads=heads,
            dropout=parameters.dropout,
        )


class ServedCausalLm:
    """Tokens -> logits of the token after the last."""

    def __init__(self, model: Decoder) -> None:
        self._model = model.eval()

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"input_ids": (B, T)} -> {"logits": (B, V)}. Raises ValueError for rows that are empty or too long, and for
        tokens that are none.
        """
        tokens = inputs["input_ids"]
        config = self._model.config
        if not 1 <= tokens.shape[1] <= config.context:
            raise ValueError(f"input_ids has rows of {tokens.shape[1]} tokens, expected 1 to {config.context}")
        if int(tokens.min()) < 0 or int(tokens.max()) >= config.vocabulary:
            raise ValueError(f"input_ids has a token that is not in 0..{config.vocabulary - 1}")
        return {"logits": self._model.head(self._model.hidden(tokens)[:, -1])}

    def continue_greedily(self, prompts: Tensor, count: int) -> list[dict[str, list[int]]]:
        """For each prompt (B, T) the `count` most probable tokens one by one; fewer at the end of the context."""
        tokens = prompts
        for _ in range(min(count, self._model.config.context - prompts.shape[1])):
            tokens = torch.cat([tokens, self({"input_ids": tokens})["logits"].argmax(1, keepdim=True)], dim=1)
        given = prompts.shape[1]
        return [{"prompt": row[:given], "continuation": row[given:]} for row in tokens.tolist()]


def build_task(config: TrainingConfig) -> CausalLmTask:
    """The task of a configuration."""
    return CausalLmTask(config)


def build_served_model(artifact: Artifact) -> ServedCausalLm:
    """Load the weights. Raises ArtifactInvalid when they do not fit the configuration beside them."""
    try:
        return ServedCausalLm(_load(artifact.path))
    except (DataError, RuntimeError) as error:
        raise ArtifactInvalid(f"{artifact.path}: {error}") from None


def _check(parameters: CausalLmParameters, model_uri: str) -> None:
    issues = []
    if model_uri:
        for name in _OF_THE_MODEL:
            if name in parameters.model_fields_set:
                field = type(parameters).model_fields[name].alias
                issues.append(Issue(f"parameters.{field}", "is that of the model of model.uri; remove it"))
    elif parameters.lora:
        issues.append(Issue("parameters.lora", "fine-tunes the model of model.uri, and there is none; write model.uri"))
    if issues:
        raise ConfigError(issues)


def _model_directory(uri: str) -> Path:
    """The directory of model.uri on this machine; an artifact of ours is verified. Raises DataError."""
    directory = open_source(uri, MODEL).local_directory()
    if (directory / MANIFEST_NAME).is_file():
        try:
            read_artifact(directory)
        except ArtifactError as error:
            raise DataError(f"model.uri: {error}") from None
    return directory


def _key(documents: Documents, tokenizer: TextTokenizer | None, parameters: CausalLmParameters, length: int) -> str:
    """The name of the prepared directory: another one when anything that decides its content is another."""
    names = ("data_format", "text_column", "prompt_column", "answer_column", "messages_column", "evaluation_fraction")
    decisive: dict[str, Any] = {
        "format": 1,
        "documents": documents.fingerprint(),
        "tokenizer": tokenizer.fingerprint() if tokenizer else parameters.vocabulary_size,
        "length": length,
        **{name: getattr(parameters, name) for name in (*names, "on_bad_row", "max_bad_rows")},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _golden(prompts: Tensor, served: ServedCausalLm) -> Golden:
    inputs = {"input_ids": prompts}
    values = [("input_ids", "INT64", prompts), ("logits", "FP32", served(inputs)["logits"])]
    given, answered = (
        TensorValue(name=name, datatype=kind, shape=list(value.shape), data=value.tolist())
        for name, kind, value in values
    )
    return Golden(inputs=[given], outputs=[answered])


def _load(directory: Path) -> Decoder:
    config, weights = read_directory(directory)
    decoder = with_weights(lambda: Decoder(config), weights)
    decoder.tie_head()
    return decoder


def _plain(value: Tensor) -> Tensor:
    """As it is stored: on the CPU, float32, in the plain memory layout, sharing memory with nothing."""
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()
