"""From the tokens of all slices and views of a cell to one vector, and from cell to cell; what is absent has no say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.severity.settings import Head


def make_head(name: Head, width: int) -> nn.Module:
    """The head of that name for tokens of ``width``.

    Raises:
        ValueError: there is none of that name.
    """
    heads = {"mean": MeanHead, "attention": AttentionHead, "lstm": LstmHead, "transformer": TransformerHead}
    if name not in heads:
        raise ValueError(f"unknown head {name!r}; expected one of {', '.join(heads)}")
    head: nn.Module = heads[name](width)
    return head


class MeanHead(nn.Module):
    """The mean of the tokens that are there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.LayerNorm(width), nn.SiLU())

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, T, D) and (B, T) to (B, D)."""
        weights = present.to(tokens.dtype) / present.sum(1, keepdim=True).clamp(min=1)
        pooled: Tensor = self.activation((tokens * weights[..., None]).sum(1))
        return pooled


class AttentionHead(nn.Module):
    """Gated attention pooling (Ilse et al. 2018, arXiv 1802.04712)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, T, D) and (B, T) to (B, D)."""
        tokens = nn.functional.silu(self.norm(tokens))
        # A large finite number: with -inf a cell without any token would give NaN instead of an even average.
        scores = self.score(tokens)[..., 0].float().masked_fill(~present, -1e4)
        return (tokens * torch.softmax(scores, 1)[..., None].to(tokens.dtype)).sum(1)


class LstmHead(nn.Module):
    """A bidirectional LSTM along the slices, then attention pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, max(1, width // 2), batch_first=True, bidirectional=True)
        self.pool = AttentionHead(2 * max(1, width // 2))
        self.out = nn.Linear(2 * max(1, width // 2), width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, T, D) and (B, T) to (B, D)."""
        hidden, _ = self.lstm(self.norm(tokens) * present[..., None])
        vector: Tensor = self.out(self.pool(hidden, present))
        return vector


class TransformerHead(nn.Module):
    """Two transformer layers with a class token, which is what comes out."""

    def __init__(self, width: int, layers: int = 2, longest: int = 64) -> None:
        super().__init__()
        self.encoder = _transformer(width, layers)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, longest, width) * 0.02)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, T, D) and (B, T) to (B, D)."""
        batch, length = present.shape
        sequence = torch.cat([self.class_token.expand(batch, -1, -1), tokens + self.position[:, :length]], 1)
        absent = torch.cat([present.new_zeros(batch, 1), ~present], 1)
        vector: Tensor = self.encoder(sequence, src_key_padding_mask=absent)[:, 0]
        return vector


class Neighbours(nn.Module):
    """Two transformer layers over the cells of an item, by which each sees the others.

    Args:
        width: of the cells' tokens.
        levels, conditions: of an item, whose cells come level after level.
    """

    def __init__(self, width: int, levels: int, conditions: int) -> None:
        super().__init__()
        self.encoder = _transformer(width, 2)
        # As large as the tokens: with 0.02 it takes ten times as many steps to learn to look at the other side.
        self.level = nn.Parameter(torch.randn(levels, 1, width) * 0.5)
        self.condition = nn.Parameter(torch.randn(conditions, width) * 0.5)

    def forward(self, vectors: Tensor, seen: Tensor) -> Tensor:
        """Vectors (N, D) of whole items, one after the other, and (N,) whether a cell is seen, to (N, D)."""
        place = (self.level + self.condition).flatten(0, 1)
        tokens = vectors.unflatten(0, (-1, len(place))) + place
        absent = ~seen.view(tokens.shape[:2])
        absent = absent & ~absent.all(1, keepdim=True)  # of an item without anything the answer is NaN otherwise
        result: Tensor = self.encoder(tokens, src_key_padding_mask=absent)
        return result.flatten(0, 1)


def _transformer(width: int, layers: int) -> nn.Module:
    heads = next(count for count in (8, 4, 2, 1) if width % count == 0)
    layer = nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
