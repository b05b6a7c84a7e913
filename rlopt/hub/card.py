"""The model card of a packed run: README.md with the metadata that the Hugging Face Hub reads."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from rlopt.registry import agent_spec

LIBRARY = "rlopt"


def model_card(
    step: int,
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    repo: str | None = None,
    video: bool = False,
    curve: bool = False,
) -> str:
    """Markdown that says what the agent is, what it reaches, how it was trained, and how it is used.

    :param step: of the checkpoint
    :param config: ``agent``, ``run`` and ``agent_config`` of its run
    :param versions: ``python`` and ``packages`` of the training
    :param evaluation: what ``rlopt evaluate`` wrote of this checkpoint; empty if it was not evaluated
    :param repo: where it is on the Hub
    :param video: whether a video lies beside it, and ``curve`` whether a learning curve does
    """
    agent, run = str(config.get("agent", "agent")), config.get("run") or {}
    env = str(run.get("env", "an environment"))
    packages = versions.get("packages") or {}
    lines = [_front_matter(agent, env, evaluation), f"# {agent} on {env}", "", f"{_summary(agent)}.", ""]
    by = f" by rlopt {packages['rlopt']}" if packages.get("rlopt") else ""
    lines += [f"Trained{by} for {step:,} steps with seed {run.get('seed', '?')}.", ""]
    lines += _returns(evaluation)
    if video:
        lines += ["[Video of an episode](replay.mp4)", ""]
    if curve:
        lines += ["![Learning curve: evaluations while training](learning_curve.svg)", ""]
    lines += ["## Use", "", *_use(repo), ""]
    lines += ["Nothing here is a pickle: weights are safetensors, everything else is JSON, CSV or a picture.", ""]
    lines += _table("Settings of the run", run) + _table("Settings of the agent", config.get("agent_config") or {})
    lines += _table("Versions", {"python": versions.get("python"), **packages})
    return "\n".join(lines)


def _summary(agent: str) -> str:
    from rlopt.errors import ConfigError

    try:
        return agent_spec(agent).summary.rstrip(".").capitalize()
    except ConfigError:
        return f"An agent of the class {_code(agent)}"


def _front_matter(agent: str, env: str, evaluation: Mapping[str, Any]) -> str:
    data: dict[str, Any] = {"library_name": LIBRARY, "tags": ["reinforcement-learning", LIBRARY, agent, env]}
    if "mean" in evaluation:
        score = f"{evaluation['mean']:.2f} +/- {evaluation.get('std', 0.0):.2f}"
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"type": env, "name": env},
            "metrics": [{"type": "mean_reward", "value": score, "name": "mean_reward"}],
        }
        data["model-index"] = [{"name": agent, "results": [result]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n"


def _returns(evaluation: Mapping[str, Any]) -> list[str]:
    if "iqm" not in evaluation:
        return ["This checkpoint was not evaluated.", ""]
    low, high = evaluation["interval"]
    count = len(evaluation.get("returns", []))
    actions = "most likely actions" if evaluation.get("deterministic", True) else "sampled actions"
    return [
        "| return | |",
        "|---|---|",
        f"| interquartile mean | {evaluation['iqm']:.1f} [{low:.1f}, {high:.1f}] |",
        f"| mean, standard deviation | {evaluation['mean']:.1f}, {evaluation.get('std', 0.0):.1f} |",
        f"| episodes | {count}, {actions}, seed {evaluation.get('seed', '?')} |",
        "",
        f"The interval is a {evaluation.get('confidence', 0.95):.0%} bootstrap interval over episodes of this one "
        "policy. It says nothing about other seeds of the training.",
        "",
    ]


def _use(repo: str | None) -> list[str]:
    folder = "FOLDER" if repo is None else repo.rpartition("/")[2]
    pull = [] if repo is None else [f"rlopt hub pull {repo}   # pip install 'rlopt[hub]'"]
    return [
        "```", *pull, f"rlopt evaluate {folder} --video", "```", "",
        "```python", "import rlopt", "", f'model = rlopt.load("{folder}")', "```",
    ]  # fmt: skip


def _table(title: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {_code(name)} | {_code(json.dumps(value))} |" for name, value in values.items() if value is not None]
    return [f"## {title}", "", "| | |", "|---|---|", *rows, ""] if rows else []


def _code(text: str) -> str:
    """Text that Markdown shows as it is, in a cell of a table."""
    return "`" + " ".join(str(text).replace("`", "'").replace("|", "\\|").split()) + "`"
