"""BERT's classifier with the rows side by side: differential privacy needs every gradient row by row.

Opacus takes dimension 0 of what goes through a layer for the samples. So each layer gets (B, L, W) here instead of the
packed (T, W) of `models.bert`. The weights, their names and the answers are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modelyard_workloads.models.bert import Attention, BertClassifier, PackedRows


class PrivateBertClassifier(BertClassifier):
    """A class for each row; shapes as in `models.bert`."""

    def forward(self, rows: PackedRows, embedded: Tensor | None = None) -> Tensor:
        """(B, K). Raises ValueError for `embedded`, which lies packed."""
        if embedded is not None:
            raise ValueError("a private classifier reads tokens only")
        x = self._encode(rows)
        pooled = torch.tanh(self.pooler.dense(x[:, 0]))
        return self.classifier(self.dropout(pooled))  # type: ignore[no-any-return]

    def _encode(self, rows: PackedRows) -> Tensor:
        """(B, L, W); what stands behind the end of a row is seen by none of its tokens."""
        encoder = self.encoder
        tokens, types, positions = (_side_by_side(v, rows) for v in (rows.tokens, rows.types, rows.positions))
        x = encoder.dropout(encoder.norm(encoder.tokens(tokens) + encoder.positions(positions) + encoder.types(types)))
        for block in encoder.blocks:
            x = block.attention_norm(x + block.dropout(self._attend(block.attention, x, rows.mask)))  # type: ignore[operator, arg-type]
            x = block.norm(x + block.dropout(block.contract(F.gelu(block.expand(x)))))  # type: ignore[operator]
        return x  # type: ignore[no-any-return]

    def _attend(self, attention: Attention, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, W) -> (B, L, W)"""
        q, k, v = attention.project(x).unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, D)
        dropout = attention.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return attention.merge(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _side_by_side(values: Tensor, rows: PackedRows) -> Tensor:
    """(T,) -> (B, L), zeros behind the end of a row."""
    return pad_sequence(list(torch.split(values, list(rows.lengths))), batch_first=True)
