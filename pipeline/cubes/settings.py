"""What a cube looks like: which series show a condition, how large the window is and how many slices it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import check_range
from pipeline.labels import Family, SeriesKind

MOST_PIXELS = 2**21
"""Of one window over all its slices, so that a study's cubes fit into memory whatever a set of weights asks for."""


@dataclass(frozen=True)
class ViewSettings:
    """One view of a cell: windows cut from the slices of one kind of series.

    Attributes:
        kind: the series that is cut.
        size_mm: side of the square window.
        pixels: side of the window in pixels; ``size_mm / pixels`` is the spacing.
        slices: windows, odd: the slice nearest to the point and as many on either side.
        reach_mm: the nearest slice may be this far from the point; beyond, the series does not show the level.
        gap_mm: neighbouring slices may be this far apart; what lies beyond a wider gap is marked absent.
    """

    kind: SeriesKind
    size_mm: float = 80.0
    pixels: int = 96
    slices: int = 3
    reach_mm: float = 8.0
    gap_mm: float = 9.0

    def __post_init__(self) -> None:
        if self.slices < 1 or self.slices % 2 == 0:
            raise ValueError(f"slices of view {self.kind}: found {self.slices}, expected an odd number of 1 or more")
        check_range(self, "size_mm", least=1, most=1000)
        check_range(self, "reach_mm", "gap_mm", above=0, most=1000)
        check_range(self, "pixels", least=2, most=1024)
        if self.slices * self.pixels**2 > MOST_PIXELS:
            raise ValueError(
                f"view {self.kind}: {self.slices} slices of {self.pixels} x {self.pixels} pixels are more than the "
                f"{MOST_PIXELS:,} pixels that a window may have"
            )

    @property
    def spacing_mm(self) -> float:
        """Millimetres a pixel."""
        return self.size_mm / self.pixels

    def widened(self, margin_mm: float, slices: int) -> ViewSettings:
        """The same view with ``margin_mm`` more on every side and ``slices`` more in both directions.

        The number of pixels grows by an even number, so that the centre stays where it was on the grid.
        """
        more = 2 * round(margin_mm / self.spacing_mm)
        pixels = self.pixels + more
        return ViewSettings(
            self.kind, self.spacing_mm * pixels, pixels, self.slices + 2 * slices, self.reach_mm, self.gap_mm
        )


def check_kinds(views: Sequence[ViewSettings]) -> None:
    """Refuse views of which two show the same kind of series: a network knows its views by their kind.

    Raises:
        ValueError: naming the kind.
    """
    kinds = [view.kind for view in views]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"{kinds.count(kind)} views of {kind}, expected one of each kind of series")


@dataclass(frozen=True)
class CubeSettings:
    """The views of each condition family.

    Attributes:
        canal: sagittal T2 and axial T2 (log loss 0.266 with sagittal alone, 0.250 with both).
        foraminal: sagittal T1 of the cell's side.
        subarticular: axial T2.
        max_tilt_degrees: in-plane turns of an axial window beyond this are taken for a misplaced point, not anatomy.
        series: how many series of one kind to cut, those nearest to the point first.
    """

    canal: tuple[ViewSettings, ...] = (ViewSettings(SeriesKind.SAGITTAL_T2), ViewSettings(SeriesKind.AXIAL_T2))
    foraminal: tuple[ViewSettings, ...] = (ViewSettings(SeriesKind.SAGITTAL_T1),)
    subarticular: tuple[ViewSettings, ...] = (ViewSettings(SeriesKind.AXIAL_T2),)
    max_tilt_degrees: float = 25.0
    series: int = 1

    def __post_init__(self) -> None:
        check_range(self, "max_tilt_degrees", least=0, most=90)
        check_range(self, "series", least=1, most=20)
        for family in Family:
            check_kinds(self.of(family))

    def of(self, family: Family) -> tuple[ViewSettings, ...]:
        """The views of a family."""
        views: tuple[ViewSettings, ...] = getattr(self, family.value)
        return views
