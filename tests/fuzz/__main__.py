"""Entry point of ``python -m tests.fuzz``; the work is in a module of its own because child processes import it."""

import sys

from tests.fuzz.harness import main

if __name__ == "__main__":
    sys.exit(main())
