"""Pictures keep their colours, and any range of grey becomes visible."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from pipeline.pictures import contact_sheet, grid, save_png, to_rgb


def test_pictures_keep_their_colours(tmp_path):
    image = np.zeros((5, 7, 3), np.uint8)
    image[..., 0] = 250
    save_png(tmp_path / "a" / "red.png", image)
    assert np.array_equal(cv2.imread(str(tmp_path / "a" / "red.png"))[:, :, ::-1], image)
    with pytest.raises(ValueError, match=r"\(rows, cols, 3\) uint8"):
        save_png(tmp_path / "grey.png", image[..., 0])
    path = tmp_path / os.fsdecode(b"caf\xe9") / "a.png"  # OpenCV itself would end the process
    save_png(path, image)
    assert path.read_bytes() == (tmp_path / "a" / "red.png").read_bytes()


def test_contact_sheet_places_tiles_of_several_sizes():
    white = np.full((10, 20, 3), 255, np.uint8)
    sheet = contact_sheet([*[white] * 8, white[:4, :4]])
    assert sheet.shape == (2 * 12 + 2, 8 * 22 + 2, 3)
    assert (sheet == 255).all(2).sum() == 8 * 200 + 16
    titled = contact_sheet([white], ["L4/L5"])
    assert titled.shape[0] == 10 + 12 + 4
    with pytest.raises(ValueError, match="no contact sheet"):
        contact_sheet([])
    with pytest.raises(ValueError, match="1 tiles and 2 titles"):
        contact_sheet([white], ["a", "b"])


def test_any_range_of_grey_becomes_visible():
    ramp = np.linspace(-3000, 9000, 100).reshape(10, 10)
    shown = to_rgb(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert to_rgb(np.full((4, 4), np.nan)).max() == 0


@pytest.mark.parametrize(("count", "shape"), [(1, (2, 12, 3)), (4, (2, 12, 3)), (5, (4, 12, 3))])
def test_a_grid_is_filled_row_by_row_and_its_end_is_black(count, shape):
    tiles = [np.full((2, 3, 3), number + 1, np.uint8) for number in range(count)]
    picture = grid(tiles, 4)
    assert picture.shape == shape
    for number in range(picture.size // 18):
        top, left = 2 * (number // 4), 3 * (number % 4)
        assert (picture[top : top + 2, left : left + 3] == (number + 1 if number < count else 0)).all()
