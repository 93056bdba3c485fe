"""``python -m tests.report.picture OUT.webp``: the README's picture, the page of a phantom graded on the spot."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from pipeline.__main__ import main as pipeline_main
from pipeline.commands.submit import main as submit
from tests.report.browser import chromium

WEIGHTS = Path(__file__).parents[2] / "weights" / "phantom"


def main(out: Path) -> int:
    """Make, grade, report, open, write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, pages = folder / "phantom", folder / "pages"
        assert pipeline_main(["phantom", str(data), "--studies", "4", "--size", "small"]) == 0
        call = ["--data", data, "--weights", WEIGHTS, "--out", folder / "run" / "submission.csv", "--quiet"]
        assert submit([str(one) for one in (*call, "--stages", folder / "run" / "stages")]) == 0
        call = ["report", folder / "run", "--truth", data, "--out", pages]
        assert pipeline_main([str(one) for one in call]) == 0
        worst = max(pages.glob("studies/*.html"), key=lambda path: path.read_text().count('<li class="g2">'))
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 2400})
            page.goto(worst.as_uri())
            page.wait_for_selector(".cell:not([hidden])")
            page.wait_for_timeout(500)  # pictures are decoded
            end = page.locator(".cell:not([hidden]) .strip").first.bounding_box()
            content = page.screenshot(clip={"x": 0, "y": 0, "width": 1200, "height": end["y"] + end["height"] + 8})
    Image.open(io.BytesIO(content)).convert("RGB").save(out, "WEBP", quality=82, method=6)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
