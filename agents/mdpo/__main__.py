"""``python -m rlopt.agents.mdpo ...`` is ``rlopt train mdpo ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "mdpo", *sys.argv[1:]]))
