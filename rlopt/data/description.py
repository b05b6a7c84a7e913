"""A data set in words and numbers."""

from typing import Any

import numpy as np

from rlopt.console.progress import say_once
from rlopt.data.dataset import Dataset, layout
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.metadata import Metadata
from rlopt.data.scores import D4RL_REFERENCE_RETURNS, score
from rlopt.errors import one_line
from rlopt.storage.json import dump_json

_SHOWN_COLUMNS = 6


def describe(data: Dataset) -> str:
    """Counts, returns, lengths, ends, bounds, origin and notes, a line each."""
    lengths = np.array([rows.stop - rows.start for rows in data.episodes()])
    terminals = int((data.discounts == 0).sum())
    metadata = data.metadata
    lines = {
        "environment": f"{metadata.env} ({metadata.generation} generation, action repeat {metadata.action_repeat})",
        "transitions": f"{len(data):,} in {len(lengths):,} episodes",
        "returns": _spread(data.episode_returns()),
        "lengths": _spread(lengths),
        "ends": f"{terminals:,} true terminals, {len(lengths) - terminals:,} truncations or cuts",
        "rewards": f"{_number(data.rewards.min())} to {_number(data.rewards.max())} a step",
        "actions": f"{layout(data.actions)}; {_bounds(data.actions)}",
    }
    if isinstance(data.observations, dict):
        lines |= {f"  {key}": f"{layout(part)}; {_bounds(part)}" for key, part in data.observations.items()}
    else:
        lines["observations"] = f"{layout(data.observations)}; {_bounds(data.observations)}"
    reference = metadata.reference_returns
    if metadata.generation == "d4rl":
        reference = D4RL_REFERENCE_RETURNS.get(metadata.env, reference)
    if reference is not None and lengths.max() > 1:  # single transitions have no return to speak of
        mean = float(score(data.episode_returns(), reference).mean())
        lines["score"] = f"{mean:.1f} on average (0 is a random policy with {reference[0]:g}, 100 an expert with "
        lines["score"] += f"{reference[1]:g})"
    if data.extras:
        lines["extras"] = ", ".join(f"{name} ({layout(column)})" for name, column in data.extras.items())
    lines |= _recorded_environment(metadata)
    if isinstance(data, Demonstrations):
        lines |= _expert(data)
    lines["generator"] = f"{metadata.generator or 'unknown'}; seed {metadata.seed}"
    if metadata.versions:
        lines["versions"] = ", ".join(f"{name} {version}" for name, version in metadata.versions.items())
    text = [f"{name:<17}{value}" for name, value in lines.items()]
    return "\n".join([*text, *(f"note: {note}" for note in metadata.notes)])


def tell_notes(data: Dataset) -> None:
    """Prints the notes of a data set that something is learned from, once in the process."""
    for note in data.metadata.notes:
        say_once(f"note: {note}")


def _recorded_environment(metadata: Metadata) -> dict[str, str]:
    """What is recorded of the environment beside its id."""
    space: Any = metadata.recorded_spaces()[1]
    known = {
        "made with": one_line(dump_json(metadata.env_kwargs)) if metadata.env_kwargs else "",
        "wrapped in": one_line(dump_json(metadata.wrappers)) if metadata.wrappers else "",
        "time limit": f"{metadata.max_episode_steps:,} environment steps" if metadata.max_episode_steps else "",
        "action space": "" if space is None else one_line(space),
        "true ends": metadata.termination,
        "rewarded": metadata.reward,
    }
    return {name: text for name, text in known.items() if text}


def _expert(data: Demonstrations) -> dict[str, str]:
    metadata = data.metadata
    mean = "unknown, no rewards" if metadata.expert_return is None else _number(metadata.expert_return)
    lines = {}
    if metadata.deterministic is not None:  # somebody recorded an expert
        actions = "mean (most likely) actions" if metadata.deterministic else "sampled actions"
        lines["expert"] = f"mean return {mean}; {actions}"
    if metadata.observation_keys:
        lines["order"] = ", ".join(metadata.observation_keys)
    if metadata.subsample_rate > 1:
        lines["subsampled"] = f"one transition in {metadata.subsample_rate}; mean return of the whole episodes {mean}"
    return lines


def _spread(values: np.ndarray) -> str:
    low, quarter, half, three_quarters, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return (
        f"mean {_number(values.mean())}; least {_number(low)}, quartiles {_number(quarter)}, {_number(half)}, "
        f"{_number(three_quarters)}, most {_number(high)}"
    )


def _bounds(column: np.ndarray) -> str:
    flat = column.reshape(len(column), -1)
    if column.ndim != 2 or flat.shape[1] > _SHOWN_COLUMNS:
        return f"{_number(flat.min())} to {_number(flat.max())}"
    pairs = zip(flat.min(axis=0), flat.max(axis=0), strict=True)
    return ", ".join(f"[{_number(low)}, {_number(high)}]" for low, high in pairs)


def _number(value: float) -> str:
    return f"{float(value):,.4g}" if abs(float(value)) < 1e4 else f"{float(value):,.0f}"
