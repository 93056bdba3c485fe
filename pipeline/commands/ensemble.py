"""``python -m pipeline ensemble``: fit weights, calibration and study context on out-of-fold tables.

Takes every labelled study through stages one to four, as ``submit.py`` does, by networks that have not seen it; or
reads what ``train severity`` left (``oof.csv`` of every fold), where ``--oof`` names it. Writes ``ensemble.json`` and
``context.safetensors`` into the weights folder, records them in its manifest, and prints what each part is worth,
cross-fitted. With ``--tables`` it fits tables in the form of a submission, of whatever origin, and only prints.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import add_cluster_argument
from pipeline.console import CallError, WorkError, say

if TYPE_CHECKING:
    from pipeline.ensemble.combine import Average

REPORT_FILE = "ensemble_report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The weights folder, the data and the tables."""
    parser.add_argument(
        "--weights", type=Path, metavar="DIR", help="weights folder (with manifest.json); asked for without --tables"
    )
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="graded competition folders, likewise")
    parser.add_argument(
        "--tables",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="out-of-fold tables with the columns of a submission, one a recipe, named as the file is (.csv, .csv.gz), "
        "or oof.csv of trainings, named as its folder is; rows may be missing. Nothing is written",
    )
    parser.add_argument("--folds", type=Path, metavar="CSV", help="with --tables: study_id and fold of every study")
    parser.add_argument("--truth", type=Path, metavar="CSV", help="with --tables: the grades, as train.csv")
    parser.add_argument(
        "--oof",
        nargs="+",
        default=[],
        metavar="RECIPE=CSV",
        help="out-of-fold predictions (oof.csv of train severity); a recipe may be given several, one for each fold. "
        "RECIPE is a network's name without its fold, e.g. canal. Without this option each network predicts the "
        "studies it has not seen",
    )
    parser.add_argument("--save-oof", type=Path, metavar="DIR", help="save these predictions as DIR/RECIPE/oof.csv")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that predict (default: %(default)s)"
    )
    add_cluster_argument(parser, "predict")
    parser.add_argument(
        "--fixed",
        nargs="*",
        default=[],
        metavar="RECIPE=WEIGHT",
        help="weights to keep instead of fitting, e.g. canal=0",
    )
    parser.add_argument("--average", choices=["logits", "probabilities"], help="default: what fits better")
    parser.add_argument("--no-context", action="store_true", help="do not fit the study-context model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the context model, e.g. steps=800"
    )


def run(args: argparse.Namespace) -> int:
    """Fit, save, report."""
    fixed = {name: _weight(name, text) for name, text in _pairs("--fixed", "RECIPE=WEIGHT", args.fixed)}
    sides = {"--weights": args.weights, "--data": args.data}, {"--folds": args.folds, "--truth": args.truth}
    needed, others = sides if args.tables is None else sides[::-1]
    if missing := [name for name, value in needed.items() if value is None]:
        raise CallError(
            f"{', '.join(missing)} missing; expected --weights and --data, or --tables, --folds and --truth"
        )
    if args.tables is not None and (args.oof or args.save_oof or any(others.values())):
        raise CallError("--tables is fitted without weights; leave out --weights, --data, --oof and --save-oof")
    if args.tables is not None:
        fit_tables(args.tables, args.folds, args.truth, fixed, args.average, not args.no_context, args.set)
        return 0
    tables: dict[str, list[Path]] = {}
    for name, path in _pairs("--oof", "RECIPE=CSV", args.oof):
        tables.setdefault(name, []).append(Path(path))
    fit_and_save(
        args.weights,
        args.data,
        tables,
        save_oof=args.save_oof,
        workers=args.workers,
        cluster=args.cluster,
        fixed=fixed,
        average=args.average,
        with_context=not args.no_context,
        overrides=args.set,
    )
    return 0


def fit_and_save(
    weights: Path,
    data: Sequence[Path],
    tables: dict[str, list[Path]],
    *,
    save_oof: Path | None = None,
    workers: int = 1,
    cluster: str | None = None,
    fixed: dict[str, float] | None = None,
    average: Average | None = None,
    with_context: bool = True,
    overrides: Sequence[str] = (),
) -> None:
    """Fit the ensemble of a weights folder.

    Args:
        weights: folder with a manifest.
        data: competition folders with grades.
        tables: files of out-of-fold predictions by recipe; none to predict the studies now.
        save_oof: folder for the predictions that are made now.
        workers: processes that make them.
        cluster: the address of a Dask scheduler whose workers make them instead.
        fixed, average, with_context: see :func:`pipeline.ensemble.fit.fit_ensemble`.
        overrides: settings of the study-context model as ``key=value``.

    Raises:
        WorkError: the networks, the tables and the grades do not fit each other.
        RefusedError: a file that would be written is not the program's own.
    """
    from pipeline.competition import open_competition
    from pipeline.config import to_dict
    from pipeline.ensemble.combine import CONTEXT_FILE, ENSEMBLE_FILE
    from pipeline.ensemble.context import ContextSettings
    from pipeline.ensemble.fit import fit_ensemble
    from pipeline.ensemble.out_of_fold import gather
    from pipeline.ensemble.prior import own_prior
    from pipeline.ensemble.report import report_lines
    from pipeline.labels import Family
    from pipeline.owned import claim
    from pipeline.preset import load_settings
    from pipeline.run.unseen import predicted_tables
    from pipeline.scoring.oof import OofTable, read_oof, write_oof
    from pipeline.weights.manifest import Manifest

    settings = load_settings(ContextSettings, overrides=overrides)
    manifest = Manifest.load(weights)
    manifest.check_free(ENSEMBLE_FILE, CONTEXT_FILE, REPORT_FILE)
    if save_oof is not None:
        claim(save_oof, "oof")
    recipes = sorted({member.recipe for member in manifest.members if member.task in list(Family)})
    for option, named in (("--oof", tables), ("--fixed", fixed or {})):
        if recipes and (unknown := sorted(set(named) - set(recipes))):
            known = ", ".join(recipes)
            raise WorkError(f"{option}: no network of recipe {', '.join(unknown)} in {weights}; it has {known}")
    prior = own_prior(manifest)
    competitions = [open_competition(path, split="train") for path in data]
    read = {name: OofTable.concatenate([read_oof(path) for path in paths]) for name, paths in tables.items()}
    grades = [c.labels for c in competitions if c.labels is not None]
    try:
        found = read or predicted_tables(manifest, competitions, workers, cluster)
        if not read and save_oof is not None:
            for name, table in found.items():
                write_oof(table, save_oof / name)
        out_of_fold = gather(found, grades)
        fitted = fit_ensemble(out_of_fold, prior, settings, average, with_context, fixed)
    except ValueError as error:
        raise WorkError(str(error)) from error
    if fitted.context is not None:
        manifest.add_file(CONTEXT_FILE, fitted.context.to_bytes())
    manifest.add_file(ENSEMBLE_FILE, _json(to_dict(fitted.fit)))
    report = {
        "studies": len(out_of_fold.grades),
        "tables": {name: len(table.study_id) for name, table in found.items()},
        "stages": fitted.report,
    }
    manifest.add_file(REPORT_FILE, _json(report))
    say(*report_lines(fitted.report))
    say(f"ensemble: fitted on {len(out_of_fold.grades)} studies; wrote {weights / ENSEMBLE_FILE}")


def fit_tables(
    tables: Sequence[Path],
    folds: Path,
    truth: Path,
    fixed: dict[str, float],
    average: Average | None,
    with_context: bool,
    overrides: Sequence[str],
) -> None:
    """Fit the ensemble of tables that need no weights, and print what each part is worth.

    Args:
        tables: in the form of a submission, the name of a recipe is the file's up to its first dot; or ``oof.csv`` of a
            training, named as its folder.
        folds: a table of study_id and fold.
        truth: grades as in ``train.csv``.
        fixed, average, with_context: see :func:`pipeline.ensemble.fit.fit_ensemble`.
        overrides: settings of the study-context model as ``key=value``.

    Raises:
        TableError: a file is none of these tables.
        WorkError: the tables, the folds and the grades do not fit each other.
        CallError: two files of one name.
    """
    from pipeline.ensemble.context import ContextSettings
    from pipeline.ensemble.fit import fit_ensemble
    from pipeline.ensemble.out_of_fold import gather_submissions
    from pipeline.ensemble.prior import read_prior
    from pipeline.ensemble.report import report_lines
    from pipeline.folds import read_folds
    from pipeline.preset import load_settings
    from pipeline.scoring.oof import read_oof
    from pipeline.submission import read_submission
    from pipeline.tables import read_labels

    settings = load_settings(ContextSettings, overrides=overrides)
    paths = {_recipe_of(path): path for path in tables}
    if len(paths) < len(tables):
        raise CallError("--tables: two files of one name (of oof.csv, its folder's); the name says which recipe it is")
    if unknown := sorted(set(fixed) - set(paths)):
        raise WorkError(f"--fixed: no table of recipe {', '.join(unknown)}; there is {', '.join(sorted(paths))}")
    read = {
        name: read_oof(path).as_submission() if path.name == "oof.csv" else read_submission(path)
        for name, path in paths.items()
    }
    labels, split = read_labels(truth).strict(), read_folds(folds)
    try:
        data = gather_submissions(read, labels, split)
        fitted = fit_ensemble(data, read_prior(), settings, average, with_context, fixed)
    except ValueError as error:
        raise WorkError(str(error)) from error
    say(*report_lines(fitted.report))
    say(f"ensemble: fitted {len(paths)} tables on {len(data.grades)} studies; nothing written")


def _recipe_of(table: Path) -> str:
    return table.absolute().parent.name if table.name == "oof.csv" else table.name.partition(".")[0]


def _json(content: object) -> bytes:
    return f"{json.dumps(content, indent=1)}\n".encode()


def _pairs(option: str, form: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """What stands before and after the sign of equality in each text.

    Raises:
        CallError: a text has none, or nothing on one side of it.
    """
    pairs = [(text, *text.partition("=")) for text in texts]
    for text, name, _, value in pairs:
        if not name or not value:
            raise CallError(f"{option} {text}: expected {form}")
    return [(name, value) for _, name, _, value in pairs]


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise CallError(f"--fixed {name}={text}: expected a weight of 0 or more, e.g. {name}=0")
    return weight
