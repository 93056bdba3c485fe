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

from pipeline.console import complain, say

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
    from pipeline.ensemble.combine import CONTEXT_FILE, ENSEMBLE_FILE
    from pipeline.ensemble.context import ContextSettings
    from pipeline.ensemble.fit import fit_ensemble, gather, report_lines
    from pipeline.ensemble.prior import own_prior
    from pipeline.labels import Family
    from pipeline.owned import claim
    from pipeline.run.unseen import predicted_tables
    from pipeline.scoring.oof import OofTable, read_oof, write_oof
    from pipeline.weights.manifest import Manifest

    settings = load_settings(ContextSettings, preset, "context", list(overrides))
    manifest = Manifest.load(weights)
    manifest.check_free(ENSEMBLE_FILE, CONTEXT_FILE, REPORT_FILE)
    if save_oof is not None:
        claim(save_oof, "oof")
    recipes = sorted({member.recipe for member in manifest.members if member.task in list(Family)})
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
