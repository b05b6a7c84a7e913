"""``python -m rlopt.agents.deep_loop ...`` is ``rlopt train deep_loop ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "deep_loop", *sys.argv[1:]]))
