"""``python -m rlopt.agents.offline td3_bc ...`` is ``rlopt train td3_bc ...``."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
