"""``python -m pipeline COMMAND``: one dispatcher for every tool of the package.

Each command is a module of ``commands`` and exposes ``add_arguments(parser)`` and ``run(args) -> int``.
Only the command that was asked for is imported, so ``--help`` answers at once and never loads torch. A command's
module therefore imports its heavy parts inside ``run``.

Exit status: 0 all well, 1 the work could not be done, 2 the call was wrong.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.console import Parser, complain, run_program, say


class Command(NamedTuple):
    """Where a command lives and the line ``--help`` prints for it."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "phantom": Command("pipeline.commands.phantom", "write a synthetic competition folder with exact ground truth"),
    "check": Command("pipeline.commands.check", "print what the pipeline would read from a folder of studies"),
    "score": Command("pipeline.commands.score", "score a submission against the truth"),
    "prior": Command("pipeline.commands.prior", "make the table of reweighted class frequencies"),
    "train": Command("pipeline.commands.train", "train the landmark and severity networks"),
    "pack": Command("pipeline.commands.pack", "put training runs into a weights folder that submit.py takes"),
    "ensemble": Command("pipeline.commands.ensemble", "fit weights, calibration and context of a weights folder"),
    "evaluate": Command("pipeline.commands.evaluate", "measure points or grades on studies the networks have not seen"),
    "kaggle": Command("pipeline.commands.kaggle", "build the datasets and the kernel to upload to Kaggle"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        say(*_overview())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    command = COMMANDS.get(name)
    if command is None:
        complain(f"python -m pipeline: unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
        return 2
    module = importlib.import_module(command.module)
    parser = Parser(prog=f"python -m pipeline {name}", description=command.summary)
    module.add_arguments(parser)
    try:
        args = parser.parse_args(rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    return int(module.run(args))


def _overview() -> list[str]:
    lines = ["usage: python -m pipeline COMMAND [--help] ...", "", "commands:"]
    lines += [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return lines


if __name__ == "__main__":
    sys.exit(run_program("python -m pipeline", main))
