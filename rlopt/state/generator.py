"""Random numbers of an agent whose stream is part of what it saves."""

from typing import Any

import numpy as np


def generator(seed: int | None) -> np.random.Generator:
    """A generator; without a seed a new one each time."""
    return np.random.Generator(np.random.PCG64(seed))


def capture(rng: np.random.Generator) -> dict[str, Any]:
    """The state of ``rng`` as whole numbers."""
    state: Any = rng.bit_generator.state
    return {
        "state": state["state"]["state"],
        "increment": state["state"]["inc"],
        "has_word": state["has_uint32"],
        "word": state["uinteger"],
    }


def restore(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Puts ``rng`` where :func:`capture` found it; raises ValueError for what is not a state."""
    if not all(type(state[name]) is int and state[name] >= 0 for name in ("state", "increment", "has_word", "word")):
        raise ValueError("the random state is malformed")
    if max(state["state"], state["increment"]) >= 2**128 or state["has_word"] > 1 or state["word"] >= 2**32:
        raise ValueError("the random state is malformed")
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state["state"], "inc": state["increment"]},
        "has_uint32": state["has_word"],
        "uinteger": state["word"],
    }
