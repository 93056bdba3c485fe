"""The settings of one family's classifier: network, loss, data and loop. One section of a preset each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.config import check_range
from pipeline.cubes.settings import CubeSettings, ViewSettings, check_kinds
from pipeline.labels import CELLS, FAMILY_COLUMNS, GRADE_WEIGHTS, LEVELS, MIRROR, Family, SeriesKind
from pipeline.weights.recipe import NO_CHANGE, AugmentSettings, InPlaneSettings, LoopSettings

LIGHT = replace(
    NO_CHANGE,
    blur=0.7, blur_share=0.1, bias=0.2, bias_share=0.3, gamma=0.25, gamma_share=0.5, contrast=0.2, contrast_share=0.7,
    noise=0.03, noise_share=0.2,
)  # fmt: skip
"""Changes of contrast and sharpness, none of geometry."""

Encoder = Literal["sequence", "multichannel", "3d"]
Head = Literal["mean", "attention", "lstm", "transformer"]
Loss = Literal["weighted", "plain", "focal", "ordinal"]
Sampling = Literal["uniform", "grade", "condition_level"]
Mixing = Literal["none", "cutmix", "mixup"]
Item = Literal["cell", "level", "study"]


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a family.

    Attributes:
        backbone: any image network of timm.
        initial: weights to start from: ``random``, ``pretrained`` or a file, see ``weights.backbones``.
        encoder: ``sequence`` encodes each slice alone; ``multichannel`` takes the slices of a view as input channels,
            which costs one forward pass a view instead of one a slice; ``3d`` is a small volumetric network.
        head: how the tokens of all slices and views become one vector.
        share_encoder: one backbone for all views, or one each. With batch norm the windows of all views need one size.
        width: of the tokens after the backbone's features are projected.
        level_width: of the level embedding; 0 for none.
        dropout: before the last layer.
        drop_path: stochastic depth of the backbone, where it has it.
        view_drop: probability that a view is hidden in training while another remains.
    """

    backbone: str = "mobilenetv2_100"
    initial: str = "random"
    encoder: Encoder = "sequence"
    head: Head = "attention"
    share_encoder: bool = False
    width: int = 256
    level_width: int = 16
    dropout: float = 0.3
    drop_path: float = 0.0
    view_drop: float = 0.2

    def __post_init__(self) -> None:
        check_range(self, "dropout", "drop_path", "view_drop", least=0, below=1)
        check_range(self, "width", least=1, most=4096)
        check_range(self, "level_width", least=0, most=4096)


@dataclass(frozen=True)
class LossSettings:
    """The training loss.

    Attributes:
        kind: ``weighted`` is the metric itself (cross-entropy weighted 1/2/4), ``plain`` leaves the weights to the
            calibration, ``focal`` is focal loss with ``alpha`` per grade, ``ordinal`` the cumulative binary losses.
        gamma: of the focal loss.
        alpha: of the focal loss, by grade.
        any_severe: weight of an extra binary loss on "severe" (the metric's fourth term asks for it); 0 for none.
        smoothing: label smoothing of the cross-entropies.
    """

    kind: Loss = "weighted"
    gamma: float = 2.0
    alpha: tuple[float, ...] = tuple(float(weight) for weight in GRADE_WEIGHTS)
    any_severe: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if len(self.alpha) != len(GRADE_WEIGHTS) or min(self.alpha) <= 0:
            raise ValueError(f"alpha is {self.alpha}, expected a positive number for each of the three grades")
        check_range(self, "smoothing", least=0, below=1)
        check_range(self, "gamma", "any_severe", least=0)


@dataclass(frozen=True)
class JitterSettings:
    """How a training window departs from its point; fitted to the localiser's errors where they are known.

    Attributes:
        sd_mm: standard deviation of the in-plane shift, per axis.
        limit_mm: no larger shift.
        slice_share: probability of a shift by one slice, either way.
        turn_degrees: standard deviation of the in-plane turn.
        scale: standard deviation of the logarithm of the size.
        rotation: largest turn besides, evenly spread to either side, degrees.
        resize: largest relative change of the size besides, evenly spread.
        least_mm: no smaller deviation of the shift than this, however good the localiser: what training sees of
            other places is worth more than being exact.
        mirror: probability of the mirror image of the patient, left for right; of the canal alone.
        slice_drop: probability that a slice beside the middle is hidden, so that gaps in a stack are nothing new.
        predicted_share: how often a cell with both is cut at its predicted instead of its labelled point.
    """

    sd_mm: float = 2.0
    limit_mm: float = 8.0
    slice_share: float = 0.15
    turn_degrees: float = 6.0
    scale: float = 0.08
    rotation: float = 0.0
    resize: float = 0.0
    least_mm: float = 3.0
    mirror: float = 0.0
    slice_drop: float = 0.1
    predicted_share: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, *self.__dataclass_fields__, least=0, most=1000)
        check_range(self, "resize", below=1)
        check_range(self, "mirror", most=1)


@dataclass(frozen=True)
class MixSettings:
    """Training windows mixed with those of another cell of the batch, and their losses with them.

    Attributes:
        kind: ``cutmix`` puts a rectangle of the other cell's window in (Yun et al. 2019), ``mixup`` averages the two
            (Zhang et al. 2018).
        share: probability that a batch is mixed.
        alpha: both parameters of the beta distribution that the share of the other cell is drawn from.
    """

    kind: Mixing = "none"
    share: float = 0.5
    alpha: float = 0.4

    def __post_init__(self) -> None:
        check_range(self, "share", least=0, most=1)
        check_range(self, "alpha", above=0, most=1000)


@dataclass(frozen=True)
class SeveritySettings:
    """Everything that makes a family's classifier; saved with its weights.

    Attributes:
        views: the cubes it sees, of any kind of series; empty takes the family's own of :class:`CubeSettings`.
        item: what it sees at once: a cell alone, all cells of a level, or those of all five levels. Of several cells
            each has windows of its own, goes through the same encoder and becomes a token; a transformer over these
            tokens lets every cell see its neighbours, and each is graded.
        also: further families that it grades. Of a cell alone, from the same cubes: what a foramen's window says of the
            recess on its side and of the canal at its level, which is the mean of what the windows of both sides say.
            Of a level or study, by their own cells, which are part of the item.
        also_weight: of their losses, against 1 for the network's own family.
        margin_mm: what training sees beyond the window, besides what ``jitter.rotation`` and ``jitter.resize`` ask for;
            further out is 0.
        margin_slices: the same along the stack.
        network, loss, jitter, mix, loop: the parts.
        augment: changes of the image; places, turns and sizes are the jitter's.
        in_plane: further changes of the plane by albumentations, in the loading processes; None for none.
        sampling: ``uniform`` draws cells equally often; ``grade`` by 1/2/4 with the loss' weights taken out, which is
            the same expected loss with less noise; ``condition_level`` balances the grades within each level.
        label_noise: train a second time without cells with 1 - OOF probability of their label above this (``train
            all``, which has the first round's; ``train severity`` where ``--oof`` names them); 0 keeps all.
        pseudo_labels: train a second time also on cells without a grade to which OOF networks give one at least this
            probability, likewise; 0 for none.
        start_from: a classifier of the same settings to continue from, e.g. one trained on labelled points that is
            now to learn what predicted ones look like; empty for none.
        shift_mm: at inference, average over the window and four more, shifted by this much; 0 for the window alone.
        beside: at inference, the weight of the windows one slice further to either side, together; 0 for the chosen
            slice alone. Where stage two says how much it believes in either slice, that counts instead. (The localiser
            takes the slice beside the marked one for every fifth point or so.)
        flip: at inference, average over the patient's mirror image too, in twice the time; of the canal alone or of
            items of several cells, whose sides change places: windows of right sides are mirror images already.
            ``jitter.mirror`` is the same in training.
        worst: a window counts exp(worst x expected grade) times as much, because a level is graded by the slice that
            shows it worst; 0 for the weights of ``beside`` alone.
    """

    views: tuple[ViewSettings, ...] = ()
    item: Item = "cell"
    also: tuple[Family, ...] = ()
    also_weight: float = 0.5
    margin_mm: float = 9.0
    margin_slices: int = 1
    network: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    jitter: JitterSettings = field(default_factory=JitterSettings)
    mix: MixSettings = field(default_factory=MixSettings)
    augment: AugmentSettings = LIGHT
    in_plane: InPlaneSettings | None = None
    loop: LoopSettings = field(default_factory=LoopSettings)
    sampling: Sampling = "uniform"
    label_noise: float = 0.0
    pseudo_labels: float = 0.0
    start_from: str = ""
    shift_mm: float = 0.0
    beside: float = 0.0
    flip: bool = False
    worst: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "beside", least=0, below=1)
        check_range(self, "label_noise", "pseudo_labels", least=0, most=1)
        check_range(self, "margin_mm", "margin_slices", "shift_mm", least=0, most=200)
        check_range(self, "worst", least=-20, most=20)
        check_kinds(self.views)
        check_range(self, "also_weight", least=0, most=100)
        if self.item != "cell" and self.sampling != "uniform":
            raise ValueError(
                f"sampling {self.sampling!r} draws cells one by one; with item {self.item!r} it is uniform"
            )
        if len(set(self.also)) != len(self.also):
            raise ValueError(f"also names a family twice: {', '.join(self.also)}")

    def families(self, own: Family) -> tuple[Family, ...]:
        """All that a classifier of a family grades, its own first.

        Raises:
            ValueError: ``also`` names the family itself, the canal's cells alone are to grade a side, or a side alone
                is to be mirrored.
        """
        alone = self.item == "cell"
        if alone and own is not Family.CANAL and (self.flip or self.jitter.mirror):
            raise ValueError(
                f"flip and jitter.mirror are for {Family.CANAL}: the mirror image of {own} is another side"
            )
        if own in self.also or (alone and self.also and own is Family.CANAL):
            raise ValueError(f"also is {', '.join(self.also)}: a classifier of {own} cannot grade that besides")
        return (own, *self.also)

    def answers(self, own: Family) -> tuple[Family, ...]:
        """The families that the windows of one cell grade, its own first: in an item of several cells, that alone."""
        return self.families(own) if self.item == "cell" else (own,)

    def cells(self, own: Family) -> tuple[int, ...]:
        """Positions in ``CELLS`` of the cells with windows, item after item."""
        if self.item == "cell":
            return tuple(FAMILY_COLUMNS[own])
        every = (cell for family in self.families(own) for cell in FAMILY_COLUMNS[family])
        return tuple(sorted(every, key=lambda cell: (cell % len(LEVELS), cell)))

    def one_item(self, own: Family) -> tuple[int, ...]:
        """Positions in ``CELLS`` of the cells of the first item; the others are the same of other levels."""
        cells = self.cells(own)
        return cells[: {"cell": 1, "level": len(cells) // len(LEVELS), "study": len(cells)}[self.item]]

    def partners(self, own: Family) -> tuple[int, ...]:
        """For each cell of an item the place in it of the same on the other side; the canal's and a lone cell's own."""
        cells = self.one_item(own)
        return (0,) if len(cells) == 1 else tuple(cells.index(MIRROR[cell]) for cell in cells)

    def pictured(self, own: Family) -> tuple[Family, ...]:
        """The families whose cells have windows, in the order of ``CELLS``."""
        return tuple(dict.fromkeys(CELLS[cell].condition.family for cell in self.cells(own)))

    def cubes(self, family: Family) -> CubeSettings:
        """The cube settings with this classifier's views put in, for every family it is shown."""
        views = self.views or CubeSettings().of(family)
        return replace(CubeSettings(), **{one.value: views for one in self.pictured(family)})  # type: ignore[arg-type]

    def seen_beyond_mm(self, family: Family) -> float:
        """What training sees beyond a window: ``margin_mm``, and the corners of the largest one turned furthest."""
        angle = math.radians(min(self.jitter.rotation, 45.0))
        corners = (math.cos(angle) + math.sin(angle)) * (1 + self.jitter.resize) - 1
        return self.margin_mm + corners * max(view.size_mm for view in self.views_of(family)) / 2

    def views_of(self, family: Family) -> tuple[ViewSettings, ...]:
        """The views this classifier sees."""
        return self.cubes(family).of(family)

    def inference_views(self, family: Family) -> tuple[ViewSettings, ...]:
        """The same views with the margin that averaging over windows (``shift_mm``, ``beside``) needs."""
        return tuple(view.widened(self.shift_mm, 1 if self.beside else 0) for view in self.views_of(family))


def view_name(kind: SeriesKind) -> str:
    """The name of a view in a batch and in a network, e.g. ``sagittal_t1``."""
    return kind.name.lower()
