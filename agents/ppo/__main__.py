"""``python -m rlopt.agents.ppo ...`` is ``rlopt train ppo ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "ppo", *sys.argv[1:]]))
