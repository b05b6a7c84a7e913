"""What :mod:`faulty_env` will do. A module of its own, because an environment's state is that of its module too."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Plan:
    """What happens, and when."""

    kind: str
    at: int
    """The step, counted over all copies in this process, from which on it happens."""
    folder: Path | None = None
    """Deleted by the fault ``delete``."""
    steps: int = 0


plan: Plan | None = None
"""The fault of all copies, set by a test; None for a sound task."""
