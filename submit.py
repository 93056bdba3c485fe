"""``python submit.py --data DIR``: grade every study below DIR and write ``submission.csv``; see ``--help``."""

import sys
import time

if __name__ == "__main__":
    started = time.monotonic()
    from pipeline.console import run_program

    def grade() -> int:
        """Import what is needed only now, on streams that hold."""
        from pipeline.commands.submit import main

        return main(sys.argv[1:], started)

    sys.exit(run_program("submit.py", grade))
