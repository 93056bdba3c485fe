"""The pages in a browser: a phantom run, graded by the committed networks, and the one real study."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from pipeline.__main__ import main as pipeline_main
from pipeline.commands.submit import main as submit
from tests.report.browser import chromium, opened

WEIGHTS = "weights/phantom"
LEVELS = ("L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1")


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def phantom(tmp_path_factory, request):
    """Two phantoms, the second without its axial series: their folder, the run's, and the pages."""
    folder = tmp_path_factory.mktemp("report")
    root = request.config.rootpath
    assert pipeline_main(["phantom", str(folder / "data"), "--studies", "2", "--size", "small", "--seed", "5"]) == 0
    table = pd.read_csv(folder / "data" / "train_series_descriptions.csv", dtype=str)
    first, second = sorted(table["study_id"].unique())
    axial = table.query("study_id == @second and series_description == 'Axial T2'")["series_id"].item()
    for file in (folder / "data" / "train_images" / second / axial).iterdir():
        file.unlink()
    call = ["--data", folder / "data", "--weights", root / WEIGHTS, "--out", folder / "run" / "submission.csv"]
    assert submit([str(one) for one in [*call, "--stages", folder / "run" / "stages", "--workers", 1, "--quiet"]]) == 0
    return folder, (first, second)


@pytest.fixture(scope="module")
def pages(phantom):
    folder, _ = phantom
    call = ["report", folder / "run", "--truth", folder / "data", "--out", folder / "pages", "--workers", "1"]
    assert pipeline_main([str(one) for one in call]) == 0
    return folder / "pages"


@pytest.fixture(scope="module")
def study_page(pages, phantom):
    return next(pages.glob(f"studies/*_{phantom[1][0]}.html"))


def test_the_first_page_sorts_filters_and_leads_to_a_study(browser, pages, phantom):
    from playwright.sync_api import expect

    first, second = phantom[1]
    with opened(browser, pages / "index.html") as page:
        page.wait_for_selector("body[data-ready]")
        fallbacks, names = (page.locator(f"#studies tbody td:nth-child({column})") for column in (8, 1))
        heading = page.get_by_role("columnheader", name="fallbacks").locator(".dt-column-order")
        heading.click()
        expect(fallbacks).to_have_text(["0", "10"])
        heading.press("Enter")
        expect(fallbacks).to_have_text(["10", "0"])
        expect(page.locator("#studies tbody td:nth-child(9)").first).to_have_text("series unreadable (10)")
        assert fits_a_phone(page)
        page.get_by_role("searchbox").fill(second)
        expect(names).to_have_text([second])
        page.get_by_role("searchbox").fill(first)
        page.get_by_role("link", name=first).click()
        page.wait_for_selector(".viewer canvas")
        assert page.title() == f"Study {first}"


def test_charts_are_there_without_a_script_and_carry_their_numbers(browser, pages):
    with opened(browser, pages / "index.html", java_script_enabled=False) as page:
        charts = page.get_by_role("figure")
        assert charts.count() == 10, "time, reasons, five conditions, three confusion matrices"
        assert all(svg.bounding_box()["height"] > 50 for svg in charts.locator("svg").all())
        canal = page.get_by_role("figure", name="Canal: true and called")
        assert canal.locator(".role-mark [aria-label]").count() == 9
        assert canal.locator("text", has_text="%").count() == 9
    assert sorted(path.name for path in (pages / "assets").iterdir()) == ["LICENCES.txt", "datatables.js"]


@pytest.mark.parametrize("width", [390, 1300])
def test_no_word_of_a_chart_is_cut_off(browser, pages, width):
    """The words are measured by the renderer's font and drawn in the browser's."""
    with opened(browser, pages / "index.html") as page:
        page.set_viewport_size({"width": width, "height": 800})
        texts = page.locator(".chart svg text")
        assert texts.count() > 60
        assert texts.evaluate_all(BEYOND) == []


BEYOND = """texts => texts.filter((text) => {
  const word = text.getBoundingClientRect(), chart = text.closest(".chart").getBoundingClientRect();
  return word.left < chart.left || word.right > chart.right || word.top < chart.top || word.bottom > chart.bottom;
}).map((text) => text.textContent)"""
"""The words that reach out of their charts."""


def test_the_numbers_of_a_chart_are_reached_by_pointer_and_keys(browser, pages):
    with opened(browser, pages / "index.html") as page:
        chart = page.get_by_role("figure", name="Canal: true and called")
        says, marks = chart.locator(".says"), chart.locator(".role-mark [aria-label]")
        marks.nth(4).hover()
        assert says.text_content().startswith("true Moderate, called Moderate: ")
        assert chart.locator("[tabindex='0']").count() == 1
        chart.locator("[tabindex='0']").press("ArrowRight")
        assert says.text_content().startswith("true Normal/Mild, called Moderate: ")
        page.keyboard.press("End")
        assert says.text_content() == marks.last.get_attribute("aria-label")
        page.keyboard.press("ArrowDown")
        assert says.text_content() == marks.last.get_attribute("aria-label"), "there is no further one"


def test_pages_work_in_a_sandboxed_frame_of_another_site_as_a_kaggle_output_is_shown(browser, pages, phantom):
    """Kaggle shows a file of a notebook's output in a frame that may run scripts, but has no origin of its own."""
    from playwright.sync_api import expect

    with served(pages) as address:
        page = browser.new_page()
        faults = []
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda one: faults.extend([one.url] * (not one.url.startswith((address, "data:")))))
        frame = f'<iframe sandbox="allow-scripts" width="1200" height="800" src="{address}/index.html"></iframe>'
        page.set_content(frame)
        inside = page.frame_locator("iframe")
        expect(inside.locator("body[data-ready]")).to_be_visible(timeout=30_000)
        expect(inside.locator(".chart svg").first).to_be_visible()
        inside.get_by_role("searchbox").fill(phantom[1][0])
        expect(inside.locator("#studies tbody tr")).to_have_count(1)
        inside.get_by_role("link", name=phantom[1][0]).click()
        expect(inside.locator(".viewer canvas").first).to_be_visible()
        page.close()
    assert faults == []


@contextlib.contextmanager
def served(folder):
    """The address of a folder on this machine."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_slices_scroll_by_wheel_keys_and_slider_and_a_drag_changes_the_window(browser, study_page):
    with opened(browser, study_page) as page:
        viewer = page.locator(".viewer").nth(1)
        screen, where, window = viewer.locator(".screen"), viewer.locator(".where"), viewer.locator(".window")
        screen.scroll_into_view_if_needed()
        at = lambda: int(where.inner_text().split()[1].split("/")[0])  # noqa: E731
        begin, box = at(), screen.bounding_box()
        page.mouse.move(box["x"] + 150, box["y"] + 150)
        page.mouse.wheel(0, 120)
        page.wait_for_function(f"() => !document.querySelectorAll('.where')[1].textContent.includes('slice {begin}/')")
        assert at() == begin + 1
        screen.press("ArrowUp")
        assert at() == begin
        screen.press("Home")
        assert at() == 1
        viewer.locator("input[type=range]").fill("4")
        assert at() == 5
        before = window.inner_text()
        slope = page.locator("#window-1 feFuncR").get_attribute("slope")
        box = screen.bounding_box()
        page.mouse.move(box["x"] + 150, box["y"] + 150)
        page.mouse.down()
        page.mouse.move(box["x"] + 230, box["y"] + 170, steps=3)
        page.mouse.up()
        wide, centre = (int(text) for text in window.inner_text().split()[1::2])
        assert wide > int(before.split()[1])
        assert centre > int(before.split()[3])
        assert float(page.locator("#window-1 feFuncR").get_attribute("slope")) < float(slope)
        page.keyboard.press("r")
        assert window.inner_text() == before


def test_points_lie_where_the_table_says_and_pictures_where_the_file_says(browser, study_page, phantom):
    folder, (study, _) = phantom
    table = pd.read_csv(folder / "run" / "stages" / "label_coordinates.csv", dtype={"study_id": str, "series_id": str})
    table = table[table["study_id"] == study]
    images = folder / "data" / "train_images" / study
    check_points(browser, study_page, images, table, least=25)


def check_points(browser, path, images, table, least):
    """Every point of the table within 2 px of its drawing, and the slice beneath it the file's own."""
    kinds = {"Spinal Canal Stenosis": 1, "Left Neural": 0, "Right Neural": 0, "Left Subart": 2, "Right Subart": 2}
    checked = 0
    with opened(browser, path) as page:
        slices = page.evaluate(
            "JSON.parse(document.getElementById('data').textContent).viewers.map(viewer => "
            "viewer.stacks.flatMap(stack => stack.slices.map(slice => `${stack.series} ${slice.instance}`)))"
        )
        for row in table.itertuples():
            number = next(n for name, n in kinds.items() if row.condition.startswith(name))
            viewer = page.locator(".viewer").nth(number)
            at = slices[number].index(f"{row.series_id} {row.instance_number}")
            viewer.locator("input[type=range]").fill(str(at))
            found = viewer.locator("svg title", has_text=f"{row.condition} {row.level}, confidence")
            mark = found.locator("xpath=..").bounding_box()
            screen = viewer.locator(".screen").bounding_box()
            image = pydicom.dcmread(images / row.series_id / f"{row.instance_number}.dcm")
            grey, x, y = as_shown(image, np.array([row.x_mm, row.y_mm, row.z_mm]), screen["width"])
            drawn = (mark["x"] + mark["width"] / 2 - screen["x"], mark["y"] + mark["height"] / 2 - screen["y"])
            assert drawn == pytest.approx((x, y), abs=2), (row.condition, row.level)
            if row.level == "L3/L4" and not row.condition.startswith("Right"):
                page.locator("#marks").uncheck()
                page.locator("#outlines").uncheck()
                picture = np.asarray(Image.open(io.BytesIO(viewer.locator(".screen").screenshot())).convert("L"))
                assert shift(picture, grey) == (0, 0)
                page.locator("#marks").check()
            checked += 1
    assert checked >= least


def as_shown(image, point_mm, side):
    """A file's slice on a square of so many pixels, letters of radiology's convention, and where a point lies on it.

    Written without the package: from the file's own headers, turned until right is the patient's left (or back) and
    down the patient's back (or feet).
    """
    pixels = image.pixel_array.astype(float)
    right, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, col_mm = map(float, image.PixelSpacing)
    offset = point_mm - np.array(image.ImagePositionPatient, float)
    col, row = offset @ right / col_mm, offset @ down / row_mm
    if abs(right[2]) > 0.7:  # columns run along the body
        pixels, right, down, row_mm, col_mm, col, row = pixels.T, down, right, col_mm, row_mm, row, col
    if right[np.abs(right).argmax()] < 0:
        pixels, col = pixels[:, ::-1], pixels.shape[1] - 1 - col
    if (down[2] > 0) if abs(down[2]) > 0.7 else (down[1] < 0):
        pixels, row = pixels[::-1], pixels.shape[0] - 1 - row
    width, height = pixels.shape[1] * col_mm, pixels.shape[0] * row_mm
    scale = side / max(width, height)
    left, top = (side - width * scale) / 2, (side - height * scale) / 2
    size = round(width * scale), round(height * scale)
    shown = np.zeros((round(side), round(side)))
    grey = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    shown[round(top) : round(top) + size[1], round(left) : round(left) + size[0]] = grey[: len(shown), : len(shown)]
    return shown, left + (col + 0.5) * col_mm * scale, top + (row + 0.5) * row_mm * scale


def shift(picture, grey):
    """By how many pixels (right, down) a picture has to be moved to fit a slice best, of at most four."""
    height, width = (min(a, b) for a, b in zip(picture.shape, grey.shape, strict=True))
    inner = slice(60, height - 60), slice(60, width - 60)  # without letters and scale
    rank = lambda values: np.clip(values, *np.percentile(values, (2, 98))).ravel()  # noqa: E731
    fits = {
        (x, y): np.corrcoef(rank(np.roll(picture[:height, :width], (y, x), (0, 1))[inner]), rank(grey[inner]))[0, 1]
        for x in range(-4, 5)
        for y in range(-4, 5)
    }
    best = max(fits, key=fits.get)
    assert fits[best] > 0.9
    return best if max(map(abs, best)) > 1 else (0, 0)


def test_the_patients_right_is_on_the_viewers_left(browser, study_page):
    with opened(browser, study_page) as page:
        edges = [
            [viewer.locator(f".letter.{edge}").text_content() for edge in ("left", "right", "top", "bottom")]
            for viewer in page.locator(".viewer").all()
        ]
        assert edges[:2] == [["A", "P", "H", "F"]] * 2
        assert [edge[0] for edge in edges[2]] == ["R", "L", "A", "P"]
        page.locator("button[data-cell='3']").click()  # canal L4/L5
        line = page.locator(".viewer").nth(1).locator("path.reference")
        level = page.locator(".viewer").nth(1).locator("svg title", has_text="L4/L5, confidence").locator("xpath=..")
        middle = lambda box: box["y"] + box["height"] / 2  # noqa: E731
        scale = page.locator(".viewer").nth(1).locator("path.ruler")
        mm = scale.evaluate("line => line.getBBox().width / line.dataset.mm")
        assert abs(middle(line.bounding_box()) - middle(level.bounding_box())) / mm < 12, "of the same level's slice"
        page.locator("button[data-cell='18']").click()  # left subarticular L4/L5
        axial = page.locator(".viewer").nth(2)
        left, right = (
            axial.locator("svg title", has_text=f"{side} Subarticular").first.locator("xpath=..").bounding_box()["x"]
            for side in ("Left", "Right")
        )
        assert right < left
        ruler = axial.locator("path.ruler")
        mm, length = float(ruler.get_attribute("data-mm")), ruler.evaluate("line => line.getBBox().width")
        stack = page.evaluate("JSON.parse(document.getElementById('data').textContent).viewers[2].stacks[0]")
        whole = max(stack["cols"] * stack["col_mm"], stack["rows"] * stack["row_mm"])
        assert length / axial.locator(".screen").bounding_box()["width"] == pytest.approx(mm / whole, rel=0.01)


def test_a_cell_shows_its_windows_its_heat_map_and_its_truth(browser, study_page):
    with opened(browser, study_page) as page:
        page.locator("button[data-cell='3']").press("Enter")  # canal L4/L5
        cell = page.locator("#cell-3")
        assert cell.is_visible()
        assert cell.locator(".pictures img:not(.heat)").count() == 2, "sagittal and axial T2"
        assert "Truth: " in cell.inner_text()
        assert "canal-fold0" in cell.inner_text()
        heat = cell.locator("img.heat").first
        assert heat.is_visible()
        page.keyboard.press("h")
        assert not heat.is_visible()
        assert fits_a_phone(page)
        page.locator("button[data-cell='0']").click()
        assert not cell.is_visible()


def test_a_study_without_axial_slices_says_why_cells_have_no_image(browser, pages, phantom):
    with opened(browser, next(pages.glob(f"studies/*_{phantom[1][1]}.html")), color_scheme="dark") as page:
        assert page.locator(".viewer h3").all_inner_texts() == ["Sagittal T1", "Sagittal T2/STIR"]
        why = page.locator("section", has=page.locator("#h-why")).inner_text()
        assert "series unreadable" in why or "series missing" in why
        assert "L4/L5 Left Subarticular Stenosis" in why
        assert "not assessed" in page.locator("ul.levels").inner_text()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"


def fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    return page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_is_one_file_below_3_mb_without_a_persons_name(study_page, phantom):
    text = study_page.read_text()
    assert len(text) < 3e6
    file = next((phantom[0] / "data" / "train_images" / phantom[1][0]).rglob("*.dcm"))
    header = pydicom.dcmread(file, stop_before_pixels=True)
    assert str(header.get("PatientName", "")) in ("", "None") or str(header.PatientName) not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


@pytest.mark.real
def test_points_of_the_real_study_lie_where_the_table_says(browser, real_data, tmp_path):
    data = real_data / "rsna-full"
    out = tmp_path / "run" / "submission.csv"
    call = ["--data", data, "--split", "train", "--out", out, "--report", tmp_path / "pages", "--workers", 1, "--quiet"]
    assert submit([str(one) for one in call]) == 0
    stages = tmp_path / "pages" / "stages"
    table = pd.read_csv(stages / "label_coordinates.csv", dtype={"study_id": str, "series_id": str})
    study = table["study_id"].iloc[0]
    page = next(tmp_path.glob("pages/studies/*.html"))
    assert page.stat().st_size < 3e6
    check_points(browser, page, data / "train_images" / study, table, least=25)
    with opened(browser, tmp_path / "pages" / "index.html") as first:
        first.wait_for_selector("body[data-ready]")
        first.get_by_role("link", name=study).click()
        first.wait_for_selector(".viewer canvas")
