"""``python submit.py --data DIR``: grade every study below DIR and write ``submission.csv``; see ``--help``."""

import sys
import time

if __name__ == "__main__":
    started = time.time()
    from pipeline.ensemble.submit_command import main

    sys.exit(main(sys.argv[1:], started))
