"""Run folders with chosen scores, as ``rlopt train`` would have written them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_SETTINGS = ("env", "seed", "total_timesteps", "action_repeat", "max_episode_steps", "preset", "eval_episodes")


def scored_run(
    path: Path,
    scores: Sequence[float],
    *,
    agent: str = "mdpo",
    every: int = 100,
    episodes: int = 2,
    packages: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """A complete run whose evaluations have the mean returns ``scores``, at steps ``every``, twice ``every``, ..."""
    path.mkdir(parents=True)
    run = {"env": "Hopper-v5", "seed": 0, "total_timesteps": every * len(scores), "action_repeat": 1}
    run |= {"max_episode_steps": None} | {name: settings.pop(name) for name in RUN_SETTINGS if name in settings}
    config = {"agent": agent, "run": run, "agent_config": {"learning_rate": 0.1} | settings}
    (path / "config.json").write_text(json.dumps(config))
    if packages is not None:
        (path / "versions.json").write_text(json.dumps({"packages": packages}))
    lines = ["step,episode,return,length"]
    for index, score in enumerate(scores):
        for episode in range(episodes):
            spread = episode - (episodes - 1) / 2
            lines.append(f"{every * (index + 1)},{episode},{score + spread},10")
    (path / "evaluations.csv").write_text("\n".join(lines) + "\n")
    return path


def scored_runs(folder: Path, name: str, last: Sequence[float], **settings: Any) -> list[Path]:
    """A run for each last score, with seeds 0, 1, ...; the best score of each is another, 999."""
    return [
        scored_run(folder / f"{name}-{seed}", [0.0, 999.0, score], seed=seed, **settings)
        for seed, score in enumerate(last)
    ]
