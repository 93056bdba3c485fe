"""``python -m pipeline ensemble``: fit weights, calibration and study context on out-of-fold tables.

Takes every labelled study through stages one to four, as ``submit.py`` does, by networks that have not seen it; or
reads what ``train severity`` left (``oof.csv`` of every fold), where ``--oof`` names it. Writes ``ensemble.json`` and
``context.safetensors`` into the weights folder, records them in its manifest, and prints what each part is worth,
cross-fitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import complain, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.competition import Competition
    from pipeline.ensemble.fit import OutOfFold
    from pipeline.scoring.oof import OofTable
    from pipeline.weights.manifest import Manifest

REPORT_FILE = "ensemble_report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The weights folder, the data and the tables."""
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="folder with manifest.json")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="folders with train.csv")
    parser.add_argument(
        "--oof",
        nargs="+",
        default=[],
        metavar="RECIPE=CSV",
        help="out-of-fold tables; a recipe may be named several times, once a fold. RECIPE is a member's name without "
        "its fold. Without any, the networks of the weights folder predict the studies they have not seen",
    )
    parser.add_argument("--save-oof", type=Path, metavar="DIR", help="keep those predictions as DIR/RECIPE/oof.csv")
    parser.add_argument("--workers", type=int, default=1, help="processes that predict (default: %(default)s)")
    parser.add_argument(
        "--fixed", nargs="*", default=[], metavar="RECIPE=WEIGHT", help="weights that are given, not fitted, e.g. 0"
    )
    parser.add_argument("--average", choices=["logits", "probabilities"], default="logits", help="what is averaged")
    parser.add_argument("--no-context", action="store_true", help="fit no study-context model")
    parser.add_argument("--ablation", action="store_true", help="also report the context model without calibration")
    parser.add_argument("--preset", default=None, metavar="NAME", help="its section context, e.g. kaggle")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. steps=800")


def run(args: argparse.Namespace) -> int:
    """Fit, save, report; returns the exit status."""
    from pipeline.config import ConfigError
    from pipeline.owned import RefusedError
    from pipeline.tables import TableError
    from pipeline.weights.manifest import WeightsError

    try:
        tables = _named(args.oof)
        fixed = {name: float(weight) for name, weight in (text.split("=", 1) for text in args.fixed)}
    except ValueError as error:
        complain(f"ensemble: {error}")
        return 2
    try:
        fit_and_save(
            args.weights,
            args.data,
            tables,
            save_oof=args.save_oof,
            workers=args.workers,
            fixed=fixed,
            average=args.average,
            with_context=not args.no_context,
            ablation=args.ablation,
            preset=args.preset,
            overrides=args.set,
        )
    except (ConfigError, RefusedError) as error:
        complain(f"ensemble: {error}")
        return 2
    except (OSError, TableError, WeightsError, ValueError) as error:
        complain(f"ensemble: {error}")
        return 1
    return 0


def fit_and_save(
    weights: Path,
    data: Sequence[Path],
    tables: dict[str, list[Path]],
    *,
    save_oof: Path | None = None,
    workers: int = 1,
    fixed: dict[str, float] | None = None,
    average: str = "logits",
    with_context: bool = True,
    ablation: bool = False,
    preset: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Fit the ensemble of a weights folder.

    Args:
        weights: folder with a manifest.
        data: competition folders with grades.
        tables: files of out-of-fold predictions by recipe; none to predict the studies now.
        save_oof: folder for the predictions that are made now.
        workers: processes that make them.
        fixed, average, with_context, ablation: see :func:`pipeline.ensemble.fit.fit_ensemble`.
        preset, overrides: of the section ``context``.

    Raises:
        ValueError: the tables and the grades do not fit each other.
        RefusedError: a file that would be written is not the program's own.
    """
    from pipeline.competition import open_competition
    from pipeline.config import load_settings, to_dict
    from pipeline.ensemble.combine import CONTEXT_FILE, ENSEMBLE_FILE, recipe_of
    from pipeline.ensemble.context import ContextSettings
    from pipeline.ensemble.fit import fit_ensemble, report_lines
    from pipeline.ensemble.prior import own_prior
    from pipeline.labels import Family
    from pipeline.owned import claim
    from pipeline.scoring.oof import OofTable, read_oof, write_oof
    from pipeline.weights.manifest import Manifest

    settings = load_settings(ContextSettings, preset, "context", list(overrides))
    manifest = Manifest.load(weights)
    manifest.check_free(ENSEMBLE_FILE, CONTEXT_FILE, REPORT_FILE)
    if save_oof is not None:
        claim(save_oof, "oof")
    recipes = sorted({recipe_of(member.name) for member in manifest.members if member.task in list(Family)})
    if recipes and (unknown := sorted(set(tables) - set(recipes))):
        raise ValueError(f"--oof: no network of recipe {', '.join(unknown)} in {weights}; it has {', '.join(recipes)}")
    prior = own_prior(manifest)
    competitions = [open_competition(path, split="train") for path in data]
    read = {name: OofTable.concatenate([read_oof(path) for path in paths]) for name, paths in tables.items()}
    found = read or predicted_tables(manifest, competitions, workers)
    if not read and save_oof is not None:
        for name, table in found.items():
            write_oof(table, save_oof / name)
    out_of_fold = gather(found, [c.labels for c in competitions if c.labels is not None])
    fitted = fit_ensemble(out_of_fold, prior, settings, average, with_context, fixed, ablation)
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


def predicted_tables(manifest: Manifest, competitions: Sequence[Competition], workers: int = 1) -> dict[str, OofTable]:
    """What the networks of a manifest say of the graded studies they have not seen, by recipe.

    A study that several folds have not seen, because it was in nobody's training, gets the mean of their
    log-probabilities and one of those folds, drawn by its id and the same for all recipes.

    Args:
        manifest: of the weights; members without a held-out fold have nothing to say here.
        competitions: folders; studies without a grade are left out.
        workers: processes.

    Raises:
        ValueError: no network answers for any graded study.
    """
    import numpy as np

    from pipeline.ensemble.combine import EnsembleFit, blend, recipe_of
    from pipeline.ensemble.evaluate import predict_unseen
    from pipeline.labels import CELL_COLUMNS
    from pipeline.scoring.oof import OofTable

    studies, grades = [], []
    for competition in competitions:
        if competition.labels is not None:
            graded = competition.labels[competition.labels[list(CELL_COLUMNS)].notna().any(axis=1)]
            chosen = [study for study in competition.studies if study.study_id in graded.index]
            studies += chosen
            grades.append(graded.loc[[study.study_id for study in chosen], list(CELL_COLUMNS)].to_numpy(dtype=float))
    known = np.nan_to_num(np.concatenate(grades), nan=-1).astype(np.int64) if studies else np.zeros((0, 25), np.int64)
    ids = np.array([study.study_id for study in studies], dtype=str)
    answers: dict[str, dict[str, np.ndarray]] = {}
    unseen_by: list[set[int]] = [set() for _ in studies]
    for name, log_p in (predict_unseen(manifest, studies, workers) if studies else {}).items():
        fold = next(member.fold for member in manifest.members if member.name == name)
        answered = np.isfinite(log_p).all(-1).any(1)
        if fold is not None and answered.any():
            answers.setdefault(recipe_of(name), {})[name] = log_p
            for place in np.flatnonzero(answered):
                unseen_by[place].add(fold)
    if not answers:
        raise ValueError(f"{manifest.folder}: no network with a held-out fold answers for a graded study of --data")
    folds = np.array([_one_of(sorted(found), name) for found, name in zip(unseen_by, ids, strict=True)])
    tables = {}
    for recipe, members in answers.items():
        mean = blend(EnsembleFit(), members)
        study, cell = np.nonzero(np.isfinite(mean).all(-1))
        tables[recipe] = OofTable(
            study_id=ids[study],
            cell=cell,
            fold=folds[study],
            grade=known[study, cell],
            predicted_point=np.ones(len(study), dtype=bool),
            log_p=mean[study, cell],
        )
    return tables


def _one_of(folds: Sequence[int], study_id: str) -> int:
    from pipeline.weights.seen import study_hash

    return folds[int(study_hash(study_id), 16) % len(folds)] if folds else -1


def gather(tables: dict[str, OofTable], labels: Sequence[pd.DataFrame]) -> OutOfFold:
    """Tables and grades by study.

    Args:
        tables: by recipe.
        labels: as ``Competition.labels``; a study in two of them is taken from the first.

    Raises:
        ValueError: a study has no grades, or two recipes put it into different folds.
    """
    import numpy as np
    import pandas as pd

    from pipeline.ensemble.fit import OutOfFold
    from pipeline.labels import CELL_COLUMNS

    grades = pd.concat(list(labels))
    grades = grades[~grades.index.duplicated()]
    folds: dict[str, int] = {}
    for name, table in tables.items():
        for study_id, fold in zip(map(str, table.study_id), table.fold.tolist(), strict=True):
            if folds.setdefault(study_id, fold) != fold:
                raise ValueError(f"study {study_id}: fold {fold} in {name}, {folds[study_id]} elsewhere; use one split")
    study_ids = sorted(folds)
    missing = [study_id for study_id in study_ids if study_id not in grades.index]
    if missing:
        raise ValueError(f"{len(missing)} studies of the tables have no grades, the first is {missing[0]}; see --data")
    return OutOfFold(
        predictions={name: table.array(study_ids) for name, table in tables.items()},
        grades=grades.loc[study_ids, list(CELL_COLUMNS)].to_numpy(dtype=float),
        folds=np.array([folds[study_id] for study_id in study_ids]),
    )


def _json(content: object) -> bytes:
    return f"{json.dumps(content, indent=1)}\n".encode()


def _named(texts: Sequence[str]) -> dict[str, list[Path]]:
    tables: dict[str, list[Path]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ValueError(f"--oof {text!r}: expected RECIPE=CSV")
        tables.setdefault(name, []).append(Path(path))
    return tables
