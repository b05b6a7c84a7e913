"""``python -m rlopt.agents.ailboost ...`` is ``rlopt train ailboost ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "ailboost", *sys.argv[1:]]))
