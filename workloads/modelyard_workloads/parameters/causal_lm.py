"""The parameters of the builtin trainer `causal-lm`. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from modelyard_workloads.parameters.base import Section
from modelyard_workloads.parameters.rows import RowParameters

Size = Literal["nano", "mini", "small", "medium", "large", "xl"]
SIZES: dict[Size, tuple[int, int, int]] = {  # layers, width, heads; small and up are GPT-2's
    "nano": (4, 256, 4),
    "mini": (6, 384, 6),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "xl": (48, 1600, 25),
}


class LoraParameters(Section):
    """Low-rank adaptation: the model's weights stay, small matrices beside them learn."""

    rank: int = Field(8, ge=1, le=1024, description="Inner width of the small matrices.")
    alpha: float = Field(16.0, gt=0, description="Strength: what they add is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the small matrices.")
    layers: Literal["attention", "all"] = Field(
        "all", description="Beside which projections they stand: attention's, or the feed-forward network's too."
    )


class CausalLmParameters(RowParameters):
    """Parameters of the builtin trainer `causal-lm`."""

    batch_size: int = Field(
        16,
        ge=1,
        le=1_048_576,
        description="Rows of contextLength tokens in one optimizer step, over all ranks; at least one for each.",
    )
    epochs: int = Field(1, ge=1, le=100_000, description="How many times the training data is seen.")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        "adamw",
        description="sgd (Nesterov momentum), adamw, or muon (orthogonal updates of hidden matrices, else adamw).",
    )
    learning_rate: float = Field(1e-3, gt=0, le=100, description="Highest learning rate of the schedule.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Second beta of adamw; without effect for sgd.")
    weight_decay: float = Field(0.1, ge=0, description="Weight decay; biases and normalisation are exempt.")
    clip_gradient_norm: float | None = Field(1.0, gt=0, description="Gradients above this norm are scaled down to it.")

    data_format: Literal["text", "pairs", "messages"] = Field(
        "text",
        description="text: documents, every token is learned. pairs: a prompt and its answer a row, messages: a"
        " conversation a row; of these the answers alone are learned.",
    )
    text_column: str = Field("text", min_length=1, description="Column of the documents.")
    prompt_column: str = Field("prompt", min_length=1, description="Column of the prompts.")
    answer_column: str = Field("answer", min_length=1, description="Column of the answers.")
    messages_column: str = Field(
        "messages", min_length=1, description="Column of the conversations: lists of {role, content}."
    )
    evaluation_fraction: float = Field(
        0.05, gt=0, lt=1, description="Share of the documents held out, where the data has no folder for it."
    )
    evaluation_tokens: int = Field(1_000_000, ge=1, description="Held-out tokens that an evaluation reads at most.")
    tokenizer: str = Field(
        "",
        pattern=r"^$|^[a-z0-9]+://.+",
        description="Address of a tokenizer.json, or of a folder with one; without it, that of the model, else a"
        " byte-level BPE is trained on the data.",
    )
    vocabulary_size: int = Field(
        4096, ge=512, le=1_048_576, description="Tokens of a tokenizer that is trained on the data."
    )
    document_mask: bool = Field(
        False, description="Text only: attention stays within a document where several share a row."
    )

    architecture: Literal["gpt2", "llama"] = Field(
        "gpt2",
        description="gpt2: learned positions, LayerNorm, GELU. llama: rotary positions, RMSNorm, SwiGLU.",
    )
    size: Size = Field(
        "nano",
        description="Layers, width and heads together: nano 4/256/4, mini 6/384/6, small 12/768/12 (GPT-2), medium"
        " 24/1024/16, large 36/1280/20, xl 48/1600/25.",
    )
    layers: int | None = Field(None, ge=1, le=1024, description="Layers; replaces those of size.")
    width: int | None = Field(None, ge=8, le=65_536, description="Width of the stream; replaces that of size.")
    heads: int | None = Field(None, ge=1, le=1024, description="Attention heads; replaces those of size.")
    key_value_heads: int | None = Field(
        None, ge=1, le=1024, description="llama only: heads of keys and values (grouped-query attention); else heads."
    )
    context_length: int | None = Field(
        None,
        ge=8,
        le=1_048_576,
        description="Tokens of a row; without it 256, or what the model of model.uri has, up to 1024.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the embedding, attention and both projections.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all tokens.")
    lora: LoraParameters | None = Field(
        None, description="Fine-tune small matrices beside the weights of model.uri (LoRA) instead of the weights."
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: every process has the whole model (DDP). full: weights, gradients and optimizer state are"
        " shared out among the processes (FSDP), for models that one GPU cannot hold.",
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, width and heads of a model that is not given."""
        layers, width, heads = SIZES[self.size]
        return self.layers or layers, self.width or width, self.heads or heads

    @model_validator(mode="after")
    def _shapes_fit(self) -> CausalLmParameters:
        _, width, heads = self.shape
        near = max(1, round(width / heads)) * heads
        if width % heads:
            raise ValueError(f"width ({width}) must be divisible by heads ({heads}); write width: {near}")
        if self.architecture == "llama" and width // heads % 2:
            raise ValueError(
                f"width / heads ({width // heads}) must be even for rotary positions; write width: {2 * near}"
            )
        groups = self.key_value_heads
        if groups is not None and self.architecture != "llama":
            raise ValueError("keyValueHeads is for architecture: llama; remove it, or write architecture: llama")
        if groups is not None and heads % groups:
            raise ValueError(f"heads ({heads}) must be divisible by keyValueHeads ({groups})")
        return self

    @model_validator(mode="after")
    def _choices_fit(self) -> CausalLmParameters:
        if self.document_mask and self.data_format != "text":
            raise ValueError(
                "documentMask is for dataFormat: text; pairs and messages are always kept apart: remove it"
            )
        if self.sharding == "full" and self.optimizer != "adamw":
            raise ValueError(f"sharding: full works with optimizer: adamw alone, not with {self.optimizer}")
        if self.sharding == "full" and self.ema_decay is not None:
            raise ValueError("emaDecay keeps a second whole model, which sharding: full cannot; remove one of them")
        if self.sharding == "full" and self.lora is not None:
            raise ValueError("lora trains few weights, which need no sharding: full; remove one of them")
        return self
