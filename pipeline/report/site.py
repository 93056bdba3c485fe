"""The files of a report: templates, the parts of other packages that are copied in once, and the names of pages."""

from __future__ import annotations

import base64
import functools
import importlib.util
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import WorkError
from pipeline.files import write_atomically, write_text
from pipeline.names import stem
from pipeline.owned import claim, delete_known

if TYPE_CHECKING:
    from jinja2 import Environment

KIND = "report"
"""What the mark of a report's folder says."""
NEEDED = {"jinja2": "jinja2", "vl_convert": "vl-convert-python", "itables": "itables"}
"""What a report imports, and the packages that bring it."""
INSTALL = "pip install"
TABLES, LICENCES = "datatables.js", "LICENCES.txt"
_OURS = re.compile(
    r"(index|training|studies-\d+)\.html|studies/\d+_\w*\.html|assets/(datatables\.js|plotly\.min\.js|LICENCES\.txt)"
)
"""What an earlier report of this program left in its folder; older ones had their charts drawn by Plotly."""
_LICENCES = """The pages of this report use, unchanged, as its Python package brings it:

DataTables, its extensions and jQuery (datatables.js), MIT, https://datatables.net, from the package itables (MIT)
"""


def check_packages() -> None:
    """Say before any work what is not installed.

    Raises:
        WorkError: naming the packages and the line that installs them.
    """
    if missing := [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]:
        raise WorkError(f"a report needs {', '.join(missing)}: {INSTALL} {' '.join(missing)}")


def begin(out: Path) -> None:
    """Make the folder of a report and copy in what its pages share; an earlier report in it goes.

    Raises:
        RefusedError: it holds other things.
        WorkError: a package is missing.
        OSError: it cannot be written.
    """
    check_packages()
    claim(out, KIND)
    delete_known(out, KIND, _OURS)
    tables = files("itables") / "html"
    script, style = ((tables / f"dt_bundle.{end}").read_bytes() for end in ("js", "css"))
    # A page on a disk may not import a module beside it, but may import one from an address that holds it.
    held = f"data:text/javascript;base64,{base64.b64encode(script).decode()}"
    sheet = base64.b64encode(style).decode()
    write_text(out / "assets" / TABLES, f'window.DATATABLES = "{held}";\nwindow.DATATABLES_CSS = "{sheet}";\n')
    write_text(out / "assets" / LICENCES, _LICENCES)


def page_name(number: int, study_id: str) -> str:
    """The page of the study of that number, from 1; ids may hold anything, names of files only letters and digits."""
    return f"studies/{number:04d}_{re.sub(r'[^A-Za-z0-9]', '', stem(study_id))}.html"


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill a template of this package.

    Raises:
        OSError: it cannot be written.
    """
    text = _environment().get_template(template).render(**content)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"), sync=False)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

    folder = files("pipeline.report") / "templates"
    load: Callable[[str], str] = lambda name: (folder / name).read_text(encoding="utf-8")  # noqa: E731
    return Environment(
        loader=FunctionLoader(load),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
