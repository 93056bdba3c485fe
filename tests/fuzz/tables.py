"""The competition's tables and our own, through the commands that read them.

Counts as a failure: an exception that is no :class:`TableError` or :class:`CompetitionError`, an exit status that is
not documented, a submission that is not complete, and any change to a file that is not a result.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from pipeline.__main__ import main
from pipeline.commands import submit
from pipeline.competition import CompetitionError, open_competition
from pipeline.labels import CELL_COLUMNS, CELLS, GRADE_NAMES, Family, level_title, row_id
from pipeline.landmarks import COLUMNS
from pipeline.landmarks.errors import COMPARED, store_errors
from pipeline.scoring.evidence import GRADINGS, read_gradings
from pipeline.scoring.oof import OofTable, read_oof, write_oof
from pipeline.severity.data import _read_points
from pipeline.severity.jitter import fit_jitter
from pipeline.severity.settings import JitterSettings
from pipeline.submission import read_submission
from pipeline.tables import TableError
from pipeline.weights.manifest import Manifest
from tests.fuzz.mutate import mutate
from tests.fuzz.weights import set_somewhere
from tests.run.studies import write_studies

STUDIES = ["100", "101", "102", "103", "104", "105"]
CELL_TEXTS = (
    b"", b"nan", b"inf", b"-1", b"1e308", b"1e999", b"9" * 400, b"-0", b"0.1", b"=cmd()", b'"', b'""', b'"a,b"',
    b"a\nb", b"\x1b[2J", b"\x00", b"\xff\xfe", "é\u202e".encode(), b"x" * 5000, b"../..", b"L1/L2", b"Severe",
    b"Axial T2", b",",
)  # fmt: skip


HANG_SECONDS = 60.0
"""A whole run of ``submit.py``, on a machine that may have other work."""


@dataclass
class Scene:
    """A competition folder and tables of our own by name; the images stay, the tables are laid out for each case."""

    folder: Path
    tables: dict[str, bytes]

    def lay_out(self) -> None:
        for name in ("out", "tables"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name, content in self.tables.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        (self.folder / "out").mkdir()

    def inputs(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in self.tables}


def bytes_of_a_table(content: bytes, other: bytes, random: Random) -> bytes:
    return mutate(content, other, random)


def one_cell(content: bytes, other: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    number = 0 if random.random() < 0.2 else random.randrange(len(lines))
    cells = lines[number].split(b",")
    cells[random.randrange(len(cells))] = random.choice(CELL_TEXTS)
    lines[number] = b",".join(cells)
    return b"\n".join(lines)


def rows(content: bytes, other: bytes, random: Random) -> bytes:
    """Twice, gone, in another order, cut short, or those of another table."""
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    kind = random.randrange(5)
    if kind == 0:
        lines.insert(number, lines[random.randrange(len(lines))])
    elif kind == 1:
        del lines[number]
    elif kind == 2:
        random.shuffle(lines)
    elif kind == 3:
        lines[number] = lines[number].partition(b",")[random.choice((0, 2))]
    else:
        lines[number:] = other.split(b"\n")[number:]
    return b"\n".join(lines)


def columns(content: bytes, other: bytes, random: Random) -> bytes:
    """One gone or twice."""
    lines = [line.split(b",") for line in content.split(b"\n")]
    number = random.randrange(max(len(lines[0]), 1))
    twice = random.random() < 0.5
    for cells in lines:
        cells[number : number + 1] = cells[number : number + 1] * 2 if twice else []
    return b"\n".join(b",".join(cells) for cells in lines)


def other_encoding(content: bytes, other: bytes, random: Random) -> bytes:
    kind = random.randrange(5)
    if kind == 0:
        return b"\xef\xbb\xbf" + content
    if kind == 1:
        return content.replace(b"\n", random.choice((b"\r\n", b"\r")))
    if kind == 2:
        return content.replace(b",", random.choice((b";", b"\t", b" , ")))
    if kind == 3:
        return content.decode("utf-8", "replace").encode("utf-16")
    return b""


def json_value(content: bytes, other: bytes, random: Random) -> bytes:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(content)
        set_somewhere(value, random)
        return json.dumps(value).encode()
    return content


CHANGES = (bytes_of_a_table, bytes_of_a_table, one_cell, one_cell, rows, columns, other_encoding)


def prepare(folder: Path) -> dict[str, bytes]:
    """Sound tables by their path in a scene."""
    rng = np.random.default_rng(0)
    grades = rng.choice(GRADE_NAMES, (len(STUDIES), len(CELLS)), p=[0.7, 0.2, 0.1])
    labels = pd.DataFrame(grades, index=pd.Index(STUDIES, name="study_id"), columns=list(CELL_COLUMNS))
    series = [(study, f"{study}-{number}", kind) for study in STUDIES[:2] for number, kind in enumerate(_KINDS)]
    points = [
        (study, f"{study}-0", 1, cell.condition.title, level_title(cell.level), 8, 9, 1, 2, 3, 0.9, 0.1, 0.1, 0, 0)
        for study in STUDIES[:2]
        for cell in CELLS
    ]
    coordinates = pd.DataFrame(points, columns=list(COLUMNS))
    every = [(f"{study}_{column}", 1 / 3, 1 / 3, 1 / 3) for study in STUDIES for column in CELL_COLUMNS]
    sample = every[: 2 * len(CELLS)]
    gradings = [(study, level_title(cell.level), *range(len(GRADINGS))) for study in STUDIES for cell in CELLS[:5]]
    errors = {name: [1.0] * len(CELLS) for name in COMPARED} | {"condition": [cell.condition.value for cell in CELLS]}
    count = len(STUDIES) * len(CELLS)
    log_p = np.log(rng.dirichlet((5, 2, 1), count))
    cells = np.tile(np.arange(len(CELLS)), len(STUDIES))
    folds, grade = np.arange(count) % 5, np.arange(count) % 3
    write_oof(OofTable(np.repeat(STUDIES, len(CELLS)), cells, folds, grade, folds > 2, log_p), folder)
    jitter = {"in_plane_sd_mm": 1.5, "slice_offsets": {"0": 0.8, "1": 0.2}, "points": 9}
    made = {
        "data/train.csv": labels.to_csv(),
        "data/train_series_descriptions.csv": _csv(series, ("study_id", "series_id", "series_description")),
        "data/test_series_descriptions.csv": _csv(series, ("study_id", "series_id", "series_description")),
        "data/train_label_coordinates.csv": coordinates[list(COLUMNS[:10])].to_csv(index=False),
        "data/sample_submission.csv": _csv(sample, ("row_id", "normal_mild", "moderate", "severe")),
        "tables/submission.csv": _csv(every, ("row_id", "normal_mild", "moderate", "severe")),
        "tables/gradings.csv": _csv(gradings, ("study_id", "level", *GRADINGS)),
        "tables/points.csv": coordinates.to_csv(index=False),
        "tables/errors.csv": pd.DataFrame(errors).to_csv(index=False),
        "tables/oof.csv": (folder / "oof.csv").read_text(),
        "tables/landmark_errors.json": json.dumps({family.value: jitter for family in Family}),
    }
    return {name: text.encode() for name, text in made.items()}


_KINDS = ("Sagittal T1", "Sagittal T2/STIR", "Axial T2")


def _csv(table: list[tuple[Any, ...]], names: tuple[str, ...]) -> str:
    return pd.DataFrame(table, columns=list(names)).to_csv(index=False)


def begin(corpus: Any, folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    write_studies(folder / "data", STUDIES[:2])
    shutil.copytree(folder / "data" / "test_images", folder / "data" / "train_images")
    scene = Scene(folder, corpus)

    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        kind = change(scene, Random(seed * 1_000_003 + number))
        before = scene.inputs()
        codes, wrong = _read_all(scene)
        if wrong is None and scene.inputs() != before:
            wrong = "a table that was read was changed"
        return kind, codes, None if wrong is None else f"{kind}: {wrong}"

    return run


def change(scene: Scene, random: Random) -> str:
    """Lay the tables out and change some; returns which and how."""
    scene.lay_out()
    said = []
    for _ in range(random.choice((1, 1, 2, 4))):
        name = random.choice(sorted(scene.tables))
        one = json_value if name.endswith(".json") and random.random() < 0.7 else random.choice(CHANGES)
        path = scene.folder / name
        path.write_bytes(one(path.read_bytes(), random.choice(list(scene.tables.values())), random))
        said.append(f"{one.__name__} of {name}")
    return ", ".join(said)


def _read_all(scene: Scene) -> tuple[list[str], str | None]:
    data, tables, out = scene.folder / "data", scene.folder / "tables", scene.folder / "out"
    Manifest.open(out / "set", "made up", "nothing")
    codes = []
    for name, arguments in {
        "check": [data],
        "score": [data / "train.csv", tables / "submission.csv"],
        "prior": [data / "train.csv", "--out", out / "prior.csv"],
    }.items():
        status, said = _quietly(lambda name=name, arguments=arguments: main([name, *map(str, arguments)]))
        codes.append(f"{name} {status}")
        if status not in (0, 1, 2) or "Traceback" in said:
            return codes, f"{name} ended with {status}: {said}"
    call = ["--data", data, "--out", out / "s.csv", "--weights", out / "set", "--workers", 1, "--quiet"]
    status, said = _quietly(lambda: submit.main([*map(str, call)]))
    codes.append(f"submit {status}")
    if status != 0:
        return codes, f"submit.py ended with {status}: {said}"
    table = read_submission(out / "s.csv")
    missing = sorted({row_id(study, cell) for study in STUDIES[:2] for cell in CELLS} - set(table.index))
    if missing or not table.index.is_unique or not np.allclose(table.sum(axis=1), 1, atol=1e-5):
        return codes, f"the table is not complete: {missing}"
    for name, read in {
        "train": lambda: open_competition(data, split="train"),
        "gradings": lambda: read_gradings(tables / "gradings.csv"),
        "points": lambda: _read_points([tables / "points.csv"]),
        "oof": lambda: read_oof(tables / "oof.csv"),
        "errors": lambda: store_errors(tables / "errors.csv", out / "set"),
        "jitter": lambda: [fit_jitter(JitterSettings(), tables / "landmark_errors.json", f) for f in Family],
    }.items():
        try:
            read()
        except (TableError, CompetitionError) as error:
            codes.append(f"{name} refused")
            if len(str(error)) > 3000:
                return codes, f"{name}: a message of {len(str(error))} characters: {str(error)[:200]}"
    return codes, None


def _quietly(call: Callable[[], int]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = call()
    return status, said.getvalue()


def keep(corpus: Any, seed: int, number: int, path: Path) -> None:
    scene = Scene(path.with_suffix(".kept"), corpus)
    (scene.folder).mkdir(parents=True, exist_ok=True)
    kind = change(scene, Random(seed * 1_000_003 + number))
    path.with_suffix(".txt").write_text(f"case {number} of seed {seed}: {kind}; the tables are below {scene.folder}\n")
