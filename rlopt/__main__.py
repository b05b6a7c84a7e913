"""``python -m rlopt``: the command without its script on the PATH."""

import sys

from rlopt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
