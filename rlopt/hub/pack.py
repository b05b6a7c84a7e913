"""A run folder cut down to what acting needs: a checkpoint, settings, versions, evaluations and a model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from rlopt.checkpoint.choose import choose_checkpoint, run_folder_of
from rlopt.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint
from rlopt.errors import RloptError, RunError
from rlopt.hub.card import model_card
from rlopt.run_folder import RunFolder, read_json, write_json
from rlopt.storage.tree import Tree

EVALUATION, EVALUATIONS, VIDEO, CURVE, CARD = (
    "evaluation.json", "evaluations.csv", "replay.mp4", "learning_curve.svg", "README.md",
)  # fmt: skip
"""Files of a packed run; the Hub plays a video of this name."""
NOT_TRAINED_FURTHER = "the run was packed for acting"
_ACTING = ("model", "networks", "env", "training", "agent")


def pack_run(run: Path, out: Path, checkpoint: str | None = None, repo: str | None = None) -> Path:
    """Writes the policy of a run to ``out``, a run folder for ``rlopt evaluate``, ``export``, ``plot`` and ``compare``.

    Replay buffer, moments of optimisers, random states and the simulator's state stay behind, so that it cannot be
    resumed; ``rlopt train --init-from`` continues from its policy. Paths of this machine are left out of the settings.

    :param run: run folder or checkpoint
    :param out: folder, new or empty
    :param checkpoint: as ``--checkpoint`` of ``rlopt evaluate``; None takes the one that the run's evaluation.json is
        of, else the newest
    :param repo: what the card calls the place where others find it; None for a folder
    :raises RunError: ``run`` is not a run folder, or ``out`` holds files
    :raises CheckpointError: the checkpoint is damaged
    """
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} holds files: give a new folder")
    evaluation = _evaluation(run)
    which = checkpoint or (str(evaluation["checkpoint"]) if "checkpoint" in evaluation else "latest")
    chosen = read_checkpoint(choose_checkpoint(run, which).path)
    if evaluation.get("checkpoint") != chosen.path.name:
        evaluation = {}
    folder = RunFolder(run_folder_of(chosen.path))
    config = _portable(chosen.metadata, folder)
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out / "checkpoints", chosen.step, _acting(chosen.trees), config)
    packed = RunFolder(out)
    write_json(packed.config, {name: config[name] for name in ("agent", "run", "agent_config")})
    versions = _versions(folder)
    write_json(packed.versions, versions)
    if evaluation:
        write_json(out / EVALUATION, evaluation)
    for source, name in ((folder.path / EVALUATIONS, EVALUATIONS), (folder.path / "video.mp4", VIDEO)):
        if source.is_file():
            shutil.copyfile(source, out / name)
    has_curve = _draw_curve(out)
    card = model_card(chosen.step, config, versions, evaluation, repo, (out / VIDEO).is_file(), has_curve)
    (out / CARD).write_text(card, encoding="utf-8")
    return out


def _evaluation(run: Path) -> dict[str, Any]:
    path = run / EVALUATION
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _acting(trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """The trees that :func:`rlopt.load` reads, without the moments of optimisers and the state of environments."""
    if "networks" not in trees or "env" not in trees:  # an agent that is not a Stable-Baselines3 algorithm
        return {name: tree for name, tree in trees.items() if name != "run"}
    kept = {name: trees[name] for name in _ACTING if name in trees}
    optimizers = {
        name: {**optimizer, "state": [], "size": 0} for name, optimizer in trees["networks"]["optimizers"].items()
    }
    kept["networks"] = {**trees["networks"], "optimizers": optimizers}
    kept["env"] = {**trees["env"], "available": False, "reason": NOT_TRAINED_FURTHER, "base": None}
    return kept


def _portable(metadata: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """The settings without what is of this machine alone: folders, accounts, and which backend stepped."""
    settings = read_json(folder.config) if folder.config.is_file() else {}
    settings = settings if isinstance(settings, dict) else {}
    found = {**metadata, "agent_config": settings.get("agent_config", metadata.get("agent_config", {}))}
    for part in ("run", "agent_config"):
        found[part] = {name: _without_folder(value) for name, value in dict(found.get(part) or {}).items()}
    found["run"] |= {name: None for name in found["run"] if name in ("run_dir", "seeds") or name.startswith("wandb")}
    for part in ("run", "env"):
        if isinstance(found.get(part), Mapping) and "backend" in found[part]:
            found[part] = {**found[part], "backend": "auto"}
    return found


def _without_folder(value: Any) -> Any:
    """An absolute path as its last part; anything else as it is."""
    if isinstance(value, list):
        return [_without_folder(part) for part in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _versions(folder: RunFolder) -> dict[str, Any]:
    """What was installed in the training, without the machine and the command line."""
    content = read_json(folder.versions) if folder.versions.is_file() else {}
    content = content if isinstance(content, dict) else {}
    return {name: content[name] for name in ("packages", "python") if name in content}


def _draw_curve(packed: Path) -> bool:
    """Draws the evaluations while training, where there are some; returns whether there were."""
    from rlopt.analysis.plotting import plot_runs

    if not (packed / EVALUATIONS).is_file():
        return False
    try:
        plot_runs([packed], packed / CURVE, key="evaluation")
    except RloptError:  # no evaluation yet
        return False
    return True


def acting_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint of a packed run, read whole and verified.

    :raises CheckpointError: it is missing or damaged
    """
    return read_checkpoint(choose_checkpoint(folder).path)
