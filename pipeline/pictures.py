"""Pictures for eyes: grey slices as RGB, contact sheets, PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.files import write_atomically


def save_png(path: Path, image: np.ndarray) -> None:
    """Write (rows, cols, 3) uint8 RGB.

    Raises:
        ValueError: if the array is not such an image.
        OSError: if it cannot be written.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{path.name}: a picture is (rows, cols, 3) uint8, not {image.shape} {image.dtype}")
    # Not imwrite, which ends the process where a folder's name is not UTF-8.
    content = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()
    write_atomically(path, lambda partial: partial.write_bytes(content), sync=False)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """A float slice (rows, cols), any range, as (rows, cols, 3) uint8 between its 1st and 99th percentiles."""
    finite = np.nan_to_num(np.asarray(pixels, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(finite, [1, 99])
    grey = np.clip((finite - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size without titles or gaps, so many in a row, black where the last row ends early."""
    padded = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(padded[start : start + columns]) for start in range(0, len(padded), columns)])


def contact_sheet(tiles: Sequence[np.ndarray], titles: Sequence[str] | None = None) -> np.ndarray:
    """Images side by side, eight in a row, titles above them, as one (rows, cols, 3) uint8 image.

    Args:
        tiles: (rows, cols) float or (rows, cols, 3) uint8; sizes may differ, each is centred in the largest.
        titles: one short text a tile.

    Raises:
        ValueError: without tiles or with a different number of titles.
    """
    if not len(tiles) or (titles is not None and len(titles) != len(tiles)):
        raise ValueError(f"{len(tiles)} tiles and {len(titles or ())} titles make no contact sheet")
    images = [tile if tile.ndim == 3 else to_rgb(tile) for tile in tiles]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    head = 12 if titles is not None else 0
    gap, columns = 2, min(8, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + head + gap) + gap, columns * (width + gap) + gap, 3), 24, np.uint8)
    for number, image in enumerate(images):
        top = gap + number // columns * (height + head + gap)
        left = gap + number % columns * (width + gap)
        if titles is not None:
            text = np.full((head, width, 3), 24, np.uint8)
            cv2.putText(text, titles[number], (1, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255), 1, cv2.LINE_AA)
            sheet[top : top + head, left : left + width] = text
        top += head + (height - image.shape[0]) // 2
        left += (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
