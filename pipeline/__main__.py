"""``python -m pipeline COMMAND``: one dispatcher for every tool of the package.

The command ``evaluate landmarks`` is the module ``pipeline.commands.evaluate_landmarks``, and so on; each exposes
``add_arguments(parser)`` and ``run(args) -> int``. Only the command that was asked for is imported, so ``--help``
answers at once and never loads torch. A command's module therefore imports its heavy parts inside ``run``.

Exit status: 0 all well, 1 the work could not be done, 2 the call was wrong; see :data:`pipeline.console.EXIT_STATUS`.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence

from pipeline.console import VERSION, complain, run_command, run_program, say

COMMANDS: dict[str, str] = {
    "phantom": "write a synthetic competition folder with exact ground truth",
    "check": "print what the pipeline would read from a folder of studies",
    "score": "score a submission against the truth",
    "prior": "make the table of reweighted class frequencies",
    "train landmarks": "train the network that finds the levels on sagittal series",
    "train axial": "train the network that finds the subarticular points on axial slices",
    "train severity": "train the classifier that grades one family of conditions",
    "train all": "train every network on every fold, calibrate them, and write a weights folder",
    "pack": "put training runs into a weights folder that submit.py takes",
    "export": "write the networks of a weights folder as ONNX files, for other programs",
    "ensemble": "fit the weights, calibration and study context of a weights folder",
    "evaluate landmarks": "compare predicted points with labelled ones, in millimetres",
    "evaluate severity": "measure the grades of studies that the networks have not seen",
    "runs": "compare training runs: settings, scores, paired differences, curves",
    "report": "write pages that show what a run did: grades, images, points, what the networks saw",
    "kaggle": "build the datasets and the kernel to upload to Kaggle",
}
"""Every command and the line ``--help`` prints for it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for words in (1, 2):
        if (name := " ".join(arguments[:words])) in COMMANDS:
            module = importlib.import_module(f"pipeline.commands.{name.replace(' ', '_')}")
            prog, summary = f"python -m pipeline {name}", f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
            return run_command(prog, summary, module.add_arguments, module.run, arguments[words:])
    if arguments[:1] == ["--version"]:
        say(VERSION)
        return 0
    asked = bool({"-h", "--help"} & set(arguments[:2]))
    group = [name for name in COMMANDS if name.split()[0] in arguments[:1]]  # of "train": train landmarks, ...
    if asked or (len(arguments) < 2 and (group or not arguments)):
        say("usage: python -m pipeline COMMAND [--help] ...", "", "commands:")
        say(*(f"  {name:<18} {COMMANDS[name]}" for name in group or COMMANDS))
        return 0 if asked else 2
    complain(f"python -m pipeline: unknown command {name}; expected one of {', '.join(group or COMMANDS)}")
    return 2


def run_pipeline() -> int:
    """``python -m pipeline`` and, of the installed package, ``lumbar-pipeline``; returns the exit status."""
    return run_program("python -m pipeline", main)


def run_submit() -> int:
    """``submit.py`` and, of the installed package, ``lumbar-grading``; returns the exit status."""
    started = time.monotonic()

    def grade() -> int:
        """Import what is needed only now, on streams that hold."""
        from pipeline.commands.submit import main as submit

        return submit(sys.argv[1:], started)

    return run_program("submit.py", grade)


if __name__ == "__main__":
    sys.exit(run_pipeline())
