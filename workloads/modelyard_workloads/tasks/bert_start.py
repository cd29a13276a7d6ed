"""What BERT's trainers begin and end with: initial weights, a tokenizer, the files of an artifact."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
from tokenizers import Tokenizer
from torch import Tensor

from modelyard_workloads.artifact import MANIFEST_NAME, Architecture, ArtifactError, read_artifact
from modelyard_workloads.data.sources import DATASET, MODEL, open_source
from modelyard_workloads.data.wordpiece import (
    VOCABULARY,
    parse_tokenizer,
    read_tokenizer,
    vocabulary_tokenizer,
    write_tokenizer,
)
from modelyard_workloads.exits import ConfigError, DataError, Issue
from modelyard_workloads.models.bert import SIZES, BertConfig
from modelyard_workloads.models.bert_huggingface import (
    CONFIG,
    WEIGHTS,
    BertCheckpoint,
    Head,
    huggingface_config,
    read_checkpoint,
    to_huggingface,
)
from modelyard_workloads.parameters.text import BertParameters


def open_initial(uri: str) -> BertCheckpoint | None:
    """The initial weights at an address, None when there is no address: an artifact of ours (then verified) or any
    directory in Hugging Face's layout. Raises DataError.
    """
    if not uri:
        return None
    directory = open_source(uri, MODEL).local_directory()
    if (directory / MANIFEST_NAME).exists():
        try:
            read_artifact(directory)
        except ArtifactError as error:
            raise DataError(f"model.uri: {error}") from None
    try:
        return read_checkpoint(directory)
    except DataError as error:
        raise DataError(f"model.uri: {error}") from None


def check_given(parameters: BertParameters, initial_uri: str) -> None:
    """Nothing that is asked for may go unheard: initial weights bring their shape and their tokenizer, a tokenizer its
    words. Raises ConfigError with all issues.
    """
    names: dict[str, str] = {}
    if parameters.tokenizer:
        names = {"vocabulary_size": "tokenizer"}
        if not parameters.tokenizer.endswith(".txt"):  # a list of words alone does not say what becomes of capitals
            names["lowercase"] = "tokenizer"
    if initial_uri:
        theirs = ("architecture", "vocabulary_size", "lowercase", "tokenizer")
        names = dict.fromkeys(theirs, "initial weights, model.uri")
    fields = type(parameters).model_fields
    issues = [
        Issue(f"parameters.{fields[name].alias or name}", f"is that of the {whose}; remove it")
        for name, whose in names.items()
        if name in parameters.model_fields_set and getattr(parameters, name) != ""
    ]
    if issues:
        raise ConfigError(issues)


def given_tokenizer(parameters: BertParameters, initial: BertCheckpoint | None) -> Tokenizer | None:
    """The tokenizer of the initial weights, or the one that the parameters name; None when one is to be trained.
    Raises DataError.
    """
    if initial is not None:
        return read_tokenizer(initial.path)
    if not parameters.tokenizer:
        return None
    uri = parameters.tokenizer
    try:
        files = open_source(uri, DATASET).files
    except DataError as error:
        raise DataError(str(error).replace("dataset.uri", "parameters.tokenizer")) from None
    if len(files) > 1:
        return read_tokenizer(open_source(uri, DATASET).local_directory())
    content = files[0].local().read_bytes()
    if files[0].relative.endswith(VOCABULARY):
        lines = content.decode("utf-8", "replace").splitlines()
        return vocabulary_tokenizer(lines, uri, lowercase=parameters.lowercase)
    return parse_tokenizer(content, uri)


def bert_config_for(parameters: BertParameters, initial: BertCheckpoint | None, tokenizer: Tokenizer) -> BertConfig:
    """The shape of the network: that of the initial weights, or as the parameters say. Raises ConfigError."""
    if initial is None:
        layers, width, heads = SIZES[parameters.architecture]
        config = BertConfig(
            vocabulary=-(-tokenizer.get_vocab_size() // 64) * 64,  # matrices of such sizes are fastest
            context=parameters.sequence_length,
            layers=layers,
            width=width,
            heads=heads,
            inner=4 * width,
        )
    else:
        config = initial.config
        if parameters.sequence_length > config.context:
            message = f"the initial weights know {config.context} positions; write at most that, got"
            raise ConfigError([Issue("parameters.sequenceLength", f"{message} {parameters.sequence_length}")])
        if tokenizer.get_vocab_size() > config.vocabulary:
            raise DataError(
                f"model.uri: the tokenizer has {tokenizer.get_vocab_size()} tokens, the weights {config.vocabulary}"
            )
    dropout, attention_dropout = parameters.dropout, parameters.attention_dropout
    return replace(
        config,
        dropout=config.dropout if dropout is None else dropout,
        attention_dropout=config.attention_dropout if attention_dropout is None else attention_dropout,
    )


def write_model(
    directory: Path,
    config: BertConfig,
    head: Head,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    labels: list[str] | None = None,
) -> None:
    """The files that transformers loads: config.json, model.safetensors and the tokenizer's. Raises OSError."""
    raw = huggingface_config(config, head, labels or [])
    (directory / CONFIG).write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    safetensors.torch.save_file(to_huggingface(weights, head), directory / WEIGHTS, metadata={"format": "pt"})
    write_tokenizer(tokenizer, directory, context=config.context)


def architecture_of(config: BertConfig, head: Head) -> Architecture:
    """The architecture as an artifact's manifest says it; config.json says the same in Hugging Face's words."""
    return Architecture(name=head, config=asdict(config))
