"""The typed parameters of the builtin trainers, one file per family; the key is `spec.trainer.builtin`."""

from __future__ import annotations

from modelyard_workloads.parameters.base import Parameters, Section
from modelyard_workloads.parameters.causal_lm import CausalLmParameters
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from modelyard_workloads.parameters.recommendation import RecommendationParameters
from modelyard_workloads.parameters.text import (
    BertPretrainingParameters,
    QuestionAnsweringParameters,
    TextClassificationParameters,
    TokenClassificationParameters,
)

PARAMETERS: dict[str, type[Parameters]] = {
    "bert-pretraining": BertPretrainingParameters,
    "causal-lm": CausalLmParameters,
    "image-classification": ImageClassificationParameters,
    "question-answering": QuestionAnsweringParameters,
    "recommendation": RecommendationParameters,
    "text-classification": TextClassificationParameters,
    "token-classification": TokenClassificationParameters,
}

__all__ = ["PARAMETERS", "Parameters", "Section"]
