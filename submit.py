"""``python submit.py --data DIR``: grade every study below DIR and write ``submission.csv``; see ``--help``."""

import sys

if __name__ == "__main__":
    from pipeline.__main__ import run_submit

    sys.exit(run_submit())
