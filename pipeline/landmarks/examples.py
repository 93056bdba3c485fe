"""What the point network learns from: labelled slices on canvases.

A labelled point is one place in the patient. It is a target on its own slice (visible), a weaker one on the slices
beside it (same place in plane, not marked there) and none further away; slices without it teach the visibility. Points
that a study does not have are masked. The rules are in :func:`sagittal_targets` and :func:`axial_examples`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from pipeline.labels import LEVELS, Condition, Family, SeriesKind
from pipeline.landmarks.canvas import WIDEST_FIELD_MM, field_mm, whole_slice_canvases, window_canvas
from pipeline.landmarks.model import AXIAL_CHANNELS, CANAL_CHANNELS, FORAMINAL_CHANNELS, SAGITTAL_CHANNELS
from pipeline.volumes import Affine, StudyVolumes, Volume

SAGITTAL_KINDS = (SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2)


@dataclass(frozen=True)
class ExampleSettings:
    """How slices become examples.

    Attributes:
        size_px: side of a sagittal canvas in pixels.
        axial_size_px: side of an axial window in pixels, with a margin for the augmentation.
        axial_pixel_mm: side of its pixels in mm.
        marked_mm: a slice within this distance of a point of another series shows it.
        beside_mm: up to here a slice has the point at the same place in plane, with less weight.
        beside_weight: that weight.
    """

    size_px: int = 192
    axial_size_px: int = 128
    axial_pixel_mm: float = 1.0
    marked_mm: float = 2.2
    beside_mm: float = 9.0
    beside_weight: float = 0.3


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of N canvases with C channels.

    Attributes:
        points: (N, C, 2) x, y in canvas pixels; 0 where there is none.
        point_weight: (N, C) 0 where there is none.
        visible: (N, C) 0..1, whether the point is marked on this very slice.
        visible_weight: (N, C) 0 where that is not known.
    """

    points: np.ndarray
    point_weight: np.ndarray
    visible: np.ndarray
    visible_weight: np.ndarray

    @staticmethod
    def blank(count: int, channels: int) -> Targets:
        """Targets that say nothing."""
        shape = (count, channels)
        return Targets(
            np.zeros((*shape, 2), np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
        )


def sagittal_targets(
    volume: Volume, affines: Affine, points: pd.DataFrame, size_px: int, settings: ExampleSettings
) -> Targets:
    """Targets of the ten sagittal channels (five canal, five foraminal) on every slice of a volume.

    Args:
        volume: a sagittal stack.
        affines: of its canvases.
        points: of :func:`labelled_points`, all series of the study.
        size_px: side of the canvases.
        settings: distances and weights.
    """
    targets = Targets.blank(len(affines), SAGITTAL_CHANNELS)
    marked_here = set(points.loc[points["series_id"] == volume.series_id, "instance_number"])
    is_marked = np.isin(volume.instance_numbers, list(marked_here))
    for family, channels in ((Family.CANAL, CANAL_CHANNELS), (Family.FORAMINAL, FORAMINAL_CHANNELS)):
        rows = points[_of_family(points, family)]
        if rows.empty:
            # A slice marked for the other family shows a foramen and not the canal, or the other way round.
            targets.visible_weight[is_marked, channels] = 0.5
            continue
        closest = np.full((len(affines), SAGITTAL_CHANNELS), np.inf)
        for row in rows.itertuples(index=False):
            channel = (channels.start or 0) + LEVELS.index(str(row.level))
            own = row.series_id == volume.series_id
            local = affines.inverse @ np.array([row.x_mm, row.y_mm, row.z_mm])
            offset = np.abs(local[:, 2])
            here = (volume.instance_numbers == row.instance_number) if own else offset <= settings.marked_mm
            reach = settings.beside_mm
            weight = np.where(here, 1.0, np.where(offset <= reach, settings.beside_weight, 0.0))
            nearer = offset < closest[:, channel]
            closest[nearer, channel] = offset[nearer]
            inside = ((local[:, :2] >= 0) & (local[:, :2] <= size_px - 1)).all(axis=1)
            use = nearer & (weight > 0) & inside
            targets.points[use, channel] = local[use, :2]
            targets.point_weight[use, channel] = weight[use]
            seen = nearer & here & inside
            targets.visible[nearer, channel] = seen[nearer]
            # Beside the marked slice the point may be just as visible: say little there.
            targets.visible_weight[nearer, channel] = np.where(
                here[nearer], 1.0, np.where(offset[nearer] <= 5.0, 0.3, 1.0)
            )
    return targets


def axial_examples(
    volumes: StudyVolumes, points: pd.DataFrame, settings: ExampleSettings
) -> tuple[np.ndarray, np.ndarray, Targets]:
    """Windows of the axial slices around each labelled level, each once as it is and once mirrored.

    The one channel is the patient's left subarticular point; on a mirrored window it is the right one.

    Returns:
        (N, size, size) images, (N,) pixel size in mm and their targets.
    """
    images, affines, marks, sides = [], [], [], []
    subarticular = points[_of_family(points, Family.SUBARTICULAR)]
    canal = points[points["condition"] == Condition.CANAL].drop_duplicates("level").set_index("level")
    stacks = [volume.normalised for volume in volumes.of_kind(SeriesKind.AXIAL_T2)] if len(subarticular) else []
    for level, rows in subarticular.groupby("level"):
        if len(rows) < 2:
            continue
        place = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
        centre = place.mean(axis=0)
        if level in canal.index:
            centre = canal.loc[level, ["x_mm", "y_mm", "z_mm"]].to_numpy(float)
        for volume in stacks:
            count = len(volume.pixels)
            _, _, offset = volume.to_pixel(np.repeat(centre[None], count, axis=0), np.arange(count))
            for index in np.nonzero(np.abs(offset) <= 12.0)[0]:
                here = rows[
                    (rows["series_id"] == volume.series_id)
                    & (rows["instance_number"] == volume.instance_numbers[index])
                ]
                image, affine = window_canvas(
                    volume, int(index), centre, settings.axial_size_px, settings.axial_pixel_mm
                )
                images.append(image)
                affines.append(affine)
                marks.append(here)
                sides.append(abs(float(offset[index])))
    size = settings.axial_size_px
    targets = Targets.blank(2 * len(images), AXIAL_CHANNELS)
    for i, (affine, here, distance) in enumerate(zip(affines, marks, sides, strict=True)):
        for mirrored, condition in enumerate((Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR)):
            row = here[here["condition"] == condition]
            k = 2 * i + mirrored
            targets.visible_weight[k] = 1.0 if len(row) or distance > 6.0 else 0.0
            if len(row):
                local = affine.inverse @ row[["x_mm", "y_mm", "z_mm"]].to_numpy(float)[0]
                x = size - 1 - local[0] if mirrored else local[0]
                targets.points[k, 0] = (x, local[1])
                targets.point_weight[k] = targets.visible[k] = 1.0
    stacked = (
        np.stack([m for image in images for m in (image, image[:, ::-1])]) if images else np.zeros((0, size, size))
    )
    return stacked, np.full(2 * len(images), settings.axial_pixel_mm), targets


def sagittal_examples(
    volumes: StudyVolumes, points: pd.DataFrame, settings: ExampleSettings
) -> tuple[np.ndarray, np.ndarray, Targets]:
    """Whole slices of every sagittal stack on canvases.

    Returns:
        (N, size, size) images, (N,) pixel size in mm and their targets.
    """
    size = settings.size_px
    images, sizes, several = [np.zeros((0, size, size))], [np.zeros(0)], [Targets.blank(0, SAGITTAL_CHANNELS)]
    for volume in volumes.volumes:
        # A pixel spacing that cannot be true makes every distance of the slice wrong: nothing is learnt from it.
        if volume.kind in SAGITTAL_KINDS and field_mm(volume) <= WIDEST_FIELD_MM:
            canvases = whole_slice_canvases(volume, size)
            images.append(canvases.images)
            sizes.append(np.full(len(canvases.images), canvases.pixel_mm))
            several.append(sagittal_targets(volume, canvases.affines, points, size, settings))
    joined = (np.concatenate([getattr(t, field.name) for t in several]) for field in fields(Targets))
    return np.concatenate(images), np.concatenate(sizes), Targets(*joined)


def _of_family(points: pd.DataFrame, family: Family) -> np.ndarray:
    """(N,) bool: the rows of a family. Of type bool even for no rows, where pandas would take a list for columns."""
    return np.array([Condition(c).family is family for c in points["condition"]], dtype=bool)
