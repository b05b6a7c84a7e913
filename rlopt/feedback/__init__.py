"""Ranking studies: people watch clips in a browser and say which are better; an optimiser learns from their answers.

The trainer (:class:`rlopt.feedback.study.HumanStudy`) and the server (``rlopt rank serve``) are separate processes on
one database (:class:`rlopt.feedback.store.StudyStore`); either may be killed at any moment.
"""

import importlib.util

from rlopt.errors import ConfigError


def require_packages() -> None:
    """Raises ConfigError with the cure if the packages of ranking studies are missing."""
    for package in ("sqlalchemy", "fastapi", "uvicorn", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"ranking studies need {package}: pip install 'rlopt[ui]'")
