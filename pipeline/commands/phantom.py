"""``python -m pipeline phantom``: write a competition folder of phantoms."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pipeline.console import CallError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the competition to")
    parser.add_argument("--studies", type=int, default=10, metavar="N", help="number of studies (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the same seed writes the same bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="test writes the grades to test_truth.csv instead of train.csv (default: %(default)s)",
    )
    parser.add_argument(
        "--size", choices=("full", "small"), default="full", help="small halves rows and columns (default: full)"
    )
    parser.add_argument(
        "--defects",
        nargs="+",
        default=[],
        metavar="NAME",
        help="give each study one of these defects in turn; 'all' for every one (names: pipeline/phantom/defects.py)",
    )
    parser.add_argument(
        "--label-noise",
        type=float,
        default=None,
        metavar="SHARE",
        help="share of grades moved to a neighbouring grade (default: 0.005)",
    )
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes; -1: one per core (default)")


def run(args: argparse.Namespace) -> int:
    """Write the folder and print where it is and what a perfect grader could reach on it."""
    from pipeline.phantom.competition_writer import make_phantom
    from pipeline.phantom.defects import DEFECTS
    from pipeline.phantom.grades import LabelSettings, noise_floor

    start = time.perf_counter()
    try:
        settings = LabelSettings() if args.label_noise is None else LabelSettings(noise=args.label_noise)
        defects = list(DEFECTS) if args.defects == ["all"] else args.defects
        make_phantom(args.out, args.studies, args.seed, args.split, args.size, defects, args.workers, settings, True)
    except ValueError as error:  # whatever is wrong with them is said of the arguments
        raise CallError(str(error)) from error
    seconds = time.perf_counter() - start
    floor = ", ".join(f"{family} {value:.3f}" for family, value in noise_floor(settings.noise).items())
    say(
        f"{args.studies} studies in {seconds:.1f} s ({seconds / args.studies:.2f} s a study), "
        f"label noise {settings.noise:g}: no grader can score below {floor}"
    )
    say(f"written to {args.out}")
    return 0
