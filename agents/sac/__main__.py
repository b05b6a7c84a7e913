"""``python -m rlopt.agents.sac ...`` is ``rlopt train sac ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "sac", *sys.argv[1:]]))
