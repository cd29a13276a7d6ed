"""The parameters of the builtin trainers that are BERT's. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from modelyard_workloads.parameters.rows import RowParameters

Size = Literal["tiny", "mini", "small", "medium", "base", "large"]


class BertParameters(RowParameters):
    """What all of BERT's trainers understand."""

    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        "adamw", description="adamw, sgd (Nesterov momentum), or muon (orthogonal updates of hidden matrices)."
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "linear",
        description="How the learning rate falls after the warm-up: to zero along a line or a cosine, not at all, or"
        " (wsd) along a line in the last fifth of the steps.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay; biases and normalisation are exempt.")
    clip_gradient_norm: float | None = Field(1.0, gt=0, description="Gradients above this norm are scaled down to it.")
    architecture: Size = Field(
        "base",
        description="Size of the encoder (layers, width): tiny (2, 128), mini (4, 256), small (4, 512), medium"
        " (8, 512), base (12, 768), large (24, 1024). With initial weights (spec.model) it is theirs.",
    )
    sequence_length: int = Field(
        128, ge=8, le=8192, description="The longest text in tokens, special ones included; longer ones are cut."
    )
    vocabulary_size: int = Field(
        30_528,
        ge=128,
        le=1_000_000,
        description="The most tokens of a tokenizer that is trained on the data; a multiple of 64 is fastest. With"
        " initial weights the tokenizer is theirs.",
    )
    lowercase: bool = Field(True, description="Whether a tokenizer that is trained on the data ignores case.")
    tokenizer: str = Field(
        "", max_length=1024, description="Address of a tokenizer.json or vocab.txt (WordPiece) to use instead."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of hidden values; without it that of the initial weights, else 0.1."
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of attention; without it that of the initial weights, else 0."
    )
    evaluation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the data held out, where no file of it is named for evaluation."
    )


class BertPretrainingParameters(BertParameters):
    """Parameters of the builtin trainer `bert-pretraining`."""

    batch_size: int = Field(
        256,
        ge=1,
        le=1_048_576,
        description="Rows in one optimizer step, over all ranks together; at least one for each.",
    )
    learning_rate: float = Field(1e-4, gt=0, le=100, description="Highest learning rate of the schedule.")
    text_column: str = Field(
        "text",
        min_length=1,
        description="The column with the text, in CSV, JSON lines and Parquet; a row is a document.",
    )
    mask_probability: float = Field(
        0.15, gt=0, lt=1, description="Share of the tokens of a row that are to be guessed."
    )
    next_sentence: bool = Field(
        True,
        description="Also tell whether the second half of a row follows the first one or is from elsewhere. Off is"
        " faster and as good for most uses.",
    )


class FineTuningParameters(BertParameters):
    """What the trainers understand that adapt an encoder to a task: by default Adam with 1e-5 for 10 epochs."""

    batch_size: int = Field(
        32,
        ge=1,
        le=1_048_576,
        description="Texts in one optimizer step, over all ranks together; at least one for each.",
    )
    learning_rate: float = Field(
        1e-5,
        gt=0,
        le=100,
        description="Highest learning rate of the schedule. 1e-5 suits initial weights; 1e-4 and more training anew.",
    )


class TextClassificationParameters(FineTuningParameters):
    """Parameters of the builtin trainer `text-classification`."""

    text_column: str = Field("text", min_length=1, description="The column with the text.")
    second_text_column: str = Field(
        "", description="The column with a second text, where pairs are to be classified; empty: there is none."
    )
    label_column: str = Field("label", min_length=1, description="The column with the name or number of the class.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")

    @model_validator(mode="after")
    def _columns_differ(self) -> TextClassificationParameters:
        names = [name for name in (self.text_column, self.second_text_column, self.label_column) if name]
        if len(set(names)) < len(names):
            raise ValueError(f"textColumn, secondTextColumn and labelColumn must be different columns, got {names}")
        return self


class TokenClassificationParameters(FineTuningParameters):
    """Parameters of the builtin trainer `token-classification`."""

    words_column: str = Field(
        "tokens", min_length=1, description="The column with the list of words, in JSON lines and Parquet."
    )
    tags_column: str = Field(
        "tags",
        min_length=1,
        description="The column with the list of tags (O, B-TYPE, I-TYPE), in JSON lines and Parquet.",
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> TokenClassificationParameters:
        if self.words_column == self.tags_column:
            raise ValueError(f"wordsColumn and tagsColumn must be different columns, both are {self.words_column!r}")
        return self


class QuestionAnsweringParameters(FineTuningParameters):
    """Parameters of the builtin trainer `question-answering`."""

    sequence_length: int = Field(
        384,
        ge=16,
        le=8192,
        description="Tokens of a question and a piece of its text together; longer texts are read in pieces.",
    )
    stride: int = Field(128, ge=0, le=4096, description="Tokens that two neighbouring pieces of a text have in common.")
    answer_length: int = Field(30, ge=1, le=1024, description="The longest answer in tokens.")

    @model_validator(mode="after")
    def _pieces_move_on(self) -> QuestionAnsweringParameters:
        if self.stride > self.sequence_length // 2:
            raise ValueError(
                f"stride ({self.stride}) must be at most half of sequenceLength ({self.sequence_length}):"
                " the rest is for the question and for what is new in each piece"
            )
        return self
