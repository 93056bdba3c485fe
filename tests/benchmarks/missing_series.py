"""What a missing series costs: ``python -m tests.benchmarks.missing_series PHANTOMS --weights weights/phantom``.

The held-out fold of a labelled folder is graded by ``submit.py`` whole, and on copies of the folder (links, no pixels
are copied) without the T1, the T2 or the axial series, as far as it has them. Printed are the metric's terms, what each
loses, and whether the two promises hold: a condition that other series show loses less than 0.10, and no term is worse
than the prior's. Exit status 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import open_competition
from pipeline.ensemble.prior import read_prior
from pipeline.labels import CELL_COLUMNS, NEEDED, Family, SeriesKind
from pipeline.scoring.metric import score_arrays
from pipeline.submission import read_submission
from tests.commands.mounts import ROOT

KINDS = (SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2)
TABLE = "train_series_descriptions.csv"
LOSS = 0.10
"""A condition that other series show loses less than this."""
ROUNDING = 1e-6
"""A term that rests on the prior is equal to it up to this."""
FAMILY_OF_TERM = {
    "spinal": Family.CANAL,
    "foraminal": Family.FORAMINAL,
    "subarticular": Family.SUBARTICULAR,
    "any_severe": Family.CANAL,
}


@dataclass(frozen=True)
class Loss:
    """One term without one series.

    Attributes:
        without: the series that was taken away.
        term: of the metric.
        value, whole, prior: the term without the series, with all, and from class frequencies alone.
        shown: whether another series shows the condition.
    """

    without: SeriesKind
    term: str
    value: float
    whole: float
    prior: float
    shown: bool

    @property
    def held(self) -> bool:
        """Whether the promises hold; a term that is worse than the prior with all series breaks them too."""
        return self.value <= self.prior + ROUNDING and (not self.shown or self.value - self.whole < LOSS)


def without(data: Path, kind: SeriesKind, target: Path) -> Path:
    """A copy of a labelled competition folder whose studies lack one kind of series; folders are linked.

    Raises:
        ValueError: no series of the kind is there to take away.
    """
    table = pd.read_csv(data / TABLE, dtype=str)
    gone = table["series_description"] == kind.value
    if not gone.any():
        raise ValueError(f"{data / TABLE}: no {kind.value} series, so nothing can be taken away")
    target.mkdir(parents=True)
    for path in data.glob("train*.csv"):
        shutil.copyfile(path, target / path.name)
    table[~gone].to_csv(target / TABLE, index=False)
    for study_id, series_id in table.loc[~gone, ["study_id", "series_id"]].itertuples(index=False):
        place = target / "train_images" / study_id / series_id
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((data / "train_images" / study_id / series_id).resolve())
    return target


def losses(kind: SeriesKind, terms: dict[str, float], whole: dict[str, float], prior: dict[str, float]) -> list[Loss]:
    """Every term without a series beside the same with it."""
    return [
        Loss(kind, term, terms[term], whole[term], prior[term], any(k is not kind for k in NEEDED[family]))
        for term, family in FAMILY_OF_TERM.items()
    ]


def graded(data: Path, out: Path, options: list[str]) -> dict[str, float]:
    """The terms that ``submit.py`` reaches on a folder.

    Raises:
        RuntimeError: it did not end with status 0.
    """
    out.mkdir(parents=True)
    command = [sys.executable, "submit.py", "--data", str(data / "train_images"), "--out", str(out / "submission.csv")]
    ran = subprocess.run([*command, "--quiet", *options], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"submit.py ended with {ran.returncode}: {ran.stderr[-2000:]}")
    score: dict[str, float] = json.loads((out / "run.json").read_text())["score"]
    return score


def prior_terms(data: Path, submission: Path) -> dict[str, float]:
    """The terms of the package's class frequencies on the studies of a submission."""
    labels = open_competition(data, split="train").labels
    if labels is None:
        raise ValueError(f"{data}: no train.csv")
    graded_ids = {str(name).partition("_")[0] for name in read_submission(submission).index}
    grades = labels.loc[labels.index.isin(graded_ids), list(CELL_COLUMNS)].to_numpy(dtype=float)
    prior = np.broadcast_to(read_prior(), (len(grades), *read_prior().shape))
    return {
        name: float("nan") if value is None else value for name, value in score_arrays(grades, prior).to_dict().items()
    }


def lines(rows: list[Loss]) -> list[str]:
    """The table for people."""
    text = [f"{'without':<18}{'term':<14}{'whole':>8}{'without':>9}{'loss':>8}{'prior':>8}"]
    for row in rows:
        verdict = (
            ""
            if row.held
            else "  MISSED"
            + (f": loses {LOSS} or more" if row.value <= row.prior + ROUNDING else ": worse than the prior")
        )
        text.append(
            f"{row.without.value:<18}{row.term:<14}{row.whole:>8.3f}{row.value:>9.3f}{row.value - row.whole:>+8.3f}"
            f"{row.prior:>8.3f}{verdict}"
        )
    return text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a labelled competition folder, such as phantoms")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args(argv)
    options = ["--weights", str(args.weights.resolve()), "--fold", str(args.fold), "--workers", str(args.workers)]
    rows: list[Loss] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = graded(args.data, Path(scratch) / "whole", options)
        prior = prior_terms(args.data, Path(scratch) / "whole" / "submission.csv")
        there = set(pd.read_csv(args.data / TABLE, dtype=str)["series_description"])
        for number, kind in enumerate(kind for kind in KINDS if kind.value in there):
            folder = without(args.data, kind, Path(scratch) / f"data{number}")
            rows += losses(kind, graded(folder, Path(scratch) / f"out{number}", options), whole, prior)
    print("\n".join(lines(rows)))
    if args.out:
        figures = [{**vars(row), "without": row.without.value, "held": row.held} for row in rows]
        args.out.write_text(json.dumps({"whole": whole, "prior": prior, "losses": figures}, indent=1))
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
