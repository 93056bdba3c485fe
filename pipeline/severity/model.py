"""The classifier: slices through a backbone, tokens of all views through a head, one vector to three logits a family.

Every view gives tokens: one a slice (``sequence``) or one in all (``multichannel``, ``3d``). A token that is absent,
because the stack ended, the series is missing or the view was dropped in training, is masked in the head, so any
subset of views is an input the network has seen. Where an item is a level or a study, the vectors of its cells see each
other before they become logits. The output is logits; :meth:`SeverityModel.log_probabilities` is the
one place where they become probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.cubes.settings import ViewSettings
from pipeline.labels import CELLS, GRADES, LEVELS, Family
from pipeline.severity.encoders import ChannelsEncoder, PlaneEncoder, SliceEncoder, VolumeEncoder, make_backbone
from pipeline.severity.heads import Neighbours, make_head
from pipeline.severity.settings import NetworkSettings, SeveritySettings, view_name


class SeverityModel(nn.Module):
    """Three logits per cell and family from the cubes of its views.

    Args:
        settings: the network.
        views: the views in the order of their tokens.
        pretrained: start from ``settings.initial``; False where trained weights are loaded afterwards.
        families: that are graded: from one cell's cubes, or by the cells of an item.
        conditions: the number of the family of each condition of an item; empty for cells alone.
        levels: of an item.
        partners: for each cell of an item the place in it of the same on the other side.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        views: Sequence[ViewSettings],
        pretrained: bool = False,
        families: int = 1,
        conditions: Sequence[int] = (),
        levels: int = 1,
        partners: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        if not views:
            raise ValueError("a severity network needs at least one view")
        self.names = tuple(view_name(view.kind) for view in views)
        self.view_drop, self.families = settings.view_drop, families
        self.encoders = nn.ModuleDict()  # a shared one once, under the name of the first view
        for view, name in zip(views[:1] if settings.share_encoder else views, self.names, strict=False):
            largest = max(other.pixels for other in views) if settings.share_encoder else view.pixels
            self.encoders[name] = _make_encoder(settings, view.slices, largest, pretrained)
        batch_norm = any(isinstance(module, _BatchNorm) for module in self.encoders.modules())
        self.batch_norm_shared = settings.share_encoder and batch_norm
        if self.batch_norm_shared and len({view.pixels for view in views}) > 1:
            raise ValueError(
                f"share_encoder: {settings.backbone} has batch norm, which has to see all views in one batch, so their "
                "windows need the same number of pixels; or take a network without it (convnext_nano)"
            )
        self.view_embedding = nn.Embedding(len(views), settings.width)
        nn.init.normal_(self.view_embedding.weight, std=0.02)
        self.head = make_head(settings.head, settings.width)
        self.level_embedding = nn.Embedding(len(LEVELS), settings.level_width) if settings.level_width else None
        self.dropout = nn.Dropout(settings.dropout)
        self.together, self.partners = tuple(conditions) * levels, tuple(partners)
        self.neighbours = Neighbours(settings.width, levels, len(conditions)) if conditions else None
        self.classify = nn.Linear(settings.width + settings.level_width, families * len(GRADES))
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    @classmethod
    def of(cls, settings: SeveritySettings, family: Family, pretrained: bool = False) -> SeverityModel:
        """The network of a family's classifier."""
        families = settings.families(family)
        item = [CELLS[cell] for cell in settings.one_item(family)]
        conditions = [families.index(cell.condition.family) for cell in item if cell.level == item[0].level]
        return cls(
            settings.network,
            settings.views_of(family),
            pretrained,
            len(families),
            () if settings.item == "cell" else conditions,
            len(item) // len(conditions),
            settings.partners(family),
        )

    def start_at(self, probabilities: Sequence[float]) -> None:
        """Let the untrained network answer with these class probabilities, three a family, all above 0."""
        with torch.no_grad():
            self.classify.bias.copy_(torch.log(torch.tensor(probabilities)))

    def forward(self, pixels: Mapping[str, Tensor], present: Mapping[str, Tensor], level: Tensor) -> Tensor:
        """Logits of B cells; where an item has several, its cells one after the other.

        Args:
            pixels: by view name (B, slices, rows, cols), about 0..1, 0 where absent.
            present: by view name (B, slices) bool.
            level: (B,) int64, 0 for L1/L2 to 4 for L5/S1.

        Returns:
            (B, families, 3) logits, not probabilities; (B, 1, 3) of each cell's own family where an item has several.
        """
        masks = self._kept([present[name] for name in self.names])
        tokens, known = [], []
        for number, (features, seen) in enumerate(self._encoded([pixels[name] for name in self.names], masks)):
            tokens.append(features + self.view_embedding.weight[number])
            known.append(seen)
        every = torch.cat(known, 1)
        vector = self.head(torch.cat(tokens, 1), every)
        if self.neighbours is not None:
            vector = self.neighbours(vector, every.any(1))
        if self.level_embedding is not None:
            vector = torch.cat([vector, self.level_embedding(level)], 1)
        logits: Tensor = self.classify(self.dropout(vector))
        logits = logits.unflatten(1, (self.families, len(GRADES)))
        if not self.together:
            return logits
        own = torch.tensor(self.together, device=logits.device).repeat(len(logits) // len(self.together))
        return logits.gather(1, own[:, None, None].expand(-1, 1, len(GRADES)))

    def encoder(self, name: str) -> nn.Module:
        """Of a view."""
        return self.encoders[name if name in self.encoders else self.names[0]]

    def _encoded(self, pixels: list[Tensor], masks: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Tokens and their masks by view; of a shared encoder in training from one batch."""
        encoders = [self.encoder(name) for name in self.names]
        if self.training and self.batch_norm_shared and isinstance(encoders[0], PlaneEncoder):
            return encoders[0].together(pixels, masks)
        return [encoder(*given) for encoder, *given in zip(encoders, pixels, masks, strict=True)]

    def mirror_rows(self, count: int, device: torch.device) -> Tensor | None:
        """(count,) for each of so many cells the row of the same on the other side; None where each is its own."""
        if self.partners == tuple(range(len(self.partners))):
            return None
        rows = torch.arange(count, device=device).view(-1, len(self.partners))
        return rows[:, list(self.partners)].flatten()

    def log_probabilities(self, pixels: Mapping[str, Tensor], present: Mapping[str, Tensor], level: Tensor) -> Tensor:
        """(B, families, 3) log-probabilities in float32; the only softmax of the classifier."""
        return torch.log_softmax(self(pixels, present, level).float(), -1)

    def _kept(self, masks: list[Tensor]) -> list[Tensor]:
        """The masks with whole views dropped at random in training, of an item together, never the last of a cell."""
        if not self.training or len(masks) < 2 or not self.view_drop:
            return masks
        there = torch.stack([mask.any(1) for mask in masks], 1)
        cells = max(1, len(self.together))
        drop = torch.rand(len(there) // cells, len(masks), device=there.device) < self.view_drop
        drop = drop.repeat_interleave(cells, 0)
        survivors = there & ~drop
        drop = drop & survivors.any(1, keepdim=True)
        return [mask & ~drop[:, [number]] for number, mask in enumerate(masks)]


def _make_encoder(settings: NetworkSettings, slices: int, pixels: int, pretrained: bool) -> nn.Module:
    if settings.encoder == "3d":
        return VolumeEncoder(settings.width)
    channels = 1 if settings.encoder == "sequence" else slices
    backbone = make_backbone(settings, channels, pretrained, pixels)
    kind = SliceEncoder if settings.encoder == "sequence" else ChannelsEncoder
    return kind(backbone, settings.width)
