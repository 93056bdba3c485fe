"""``python -m pipeline evaluate STAGE``: what a weights folder is worth on labelled studies, stage by stage.

Only the stage that was named is imported. Each leaves a JSON file of the figures that it prints.
"""

from __future__ import annotations

import argparse
import importlib

from pipeline.console import Parser

STAGES: dict[str, tuple[str, str]] = {
    "landmarks": ("pipeline.commands.evaluate_landmarks", "predicted points against labelled ones, in millimetres"),
    "severity": ("pipeline.commands.evaluate_severity", "grades at predicted points, and what else speaks for them"),
}
"""The module of each stage and a line of help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The stage; everything after it is read by the stage's own parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "stages:\n" + "\n".join(f"  {name:<10} {summary}" for name, (_, summary) in STAGES.items())
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="see: evaluate STAGE --help")


def run(args: argparse.Namespace) -> int:
    """Evaluate a stage; returns the exit status."""
    name, summary = STAGES[args.stage]
    module = importlib.import_module(name)
    parser = Parser(prog=f"python -m pipeline evaluate {args.stage}", description=f"Measure {summary}.")
    module.add_arguments(parser)
    try:
        options = parser.parse_args(args.rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    return int(module.run(options))
