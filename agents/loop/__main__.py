"""``python -m rlopt.agents.loop ...`` is ``rlopt train loop ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "loop", *sys.argv[1:]]))
