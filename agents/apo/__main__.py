"""``python -m rlopt.agents.apo ...`` is ``rlopt train apo ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "apo", *sys.argv[1:]]))
