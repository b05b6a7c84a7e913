"""``python -m rlopt.agents.zo_ranksgd ...`` is ``rlopt train zo_ranksgd ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "zo_ranksgd", *sys.argv[1:]]))
