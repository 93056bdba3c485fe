"""Several commands in one process: ``python -m tests.systems.commands COMMANDS.json``, a list of lists of arguments.

Prints, after each, a line with its exit status; importing PyTorch once instead of ten times is what makes it a test.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.__main__ import main
from pipeline.console import run_program, say

if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        status = run_program("commands", lambda command=command: main(command))
        say(f"status {status}: {' '.join(command[:2])}")
