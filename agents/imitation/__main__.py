"""``python -m rlopt.agents.imitation sqil ...`` is ``rlopt train sqil ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
