"""``python -m rlopt.agents.differential_dqn ...`` is ``rlopt train differential_dqn ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "differential_dqn", *sys.argv[1:]]))
