"""Compare a program that acts by an ONNX policy with rlopt.load_policy, on random observations.

python examples/check_cpp.py build/policy policy.onnx
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
from gymnasium import spaces

import rlopt
from rlopt.export.write import random_observations

COUNT, ALLOWED = 200, 1e-5


def largest_difference(program: list[str], path: str) -> float:
    """Between the actions of the program and of the policy, on the same observations."""
    policy = rlopt.load_policy(path)
    observations = random_observations(policy.observation_space, COUNT)
    names = list(policy.observation_space.spaces) if isinstance(policy.observation_space, spaces.Dict) else [None]
    parts: list[Any] = [observations if name is None else observations[name] for name in names]
    rows = np.concatenate([np.asarray(part, np.float64).reshape(COUNT, -1) for part in parts], axis=1)
    text = "\n".join(" ".join(repr(float(value)) for value in row) for row in rows)
    done = subprocess.run([*program, path], input=text, capture_output=True, text=True, check=True)
    actions = np.array([[float(value) for value in line.split()] for line in done.stdout.splitlines()])
    expected = np.asarray(policy.predict(observations)[0], np.float64).reshape(COUNT, -1)
    return float(np.abs(actions - expected).max())


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    difference = largest_difference([sys.argv[1]], sys.argv[2])
    print(f"largest difference of {COUNT} actions: {difference:.2g} ({ALLOWED:g} allowed)")
    return 0 if difference < ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
