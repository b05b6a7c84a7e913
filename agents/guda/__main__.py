"""``python -m rlopt.agents.guda ...`` is ``rlopt data augment ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "augment", *sys.argv[1:]]))
