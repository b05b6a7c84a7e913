"""``rlopt preferences SUBVERB``: answers about fragments of episodes, and reward models learned from them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rlopt.cli.flags import parse_settings
from rlopt.cli.parsing import OneLineParser, import_named_envs
from rlopt.cli.subverbs import run
from rlopt.errors import ConfigError, DataError
from rlopt.settings.fields import Range

if TYPE_CHECKING:
    from rlopt.preferences.folder import PreferenceFolder

_FOLDER = "folder of preferences, or a run that was trained with --reward"


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run(
        "preferences",
        "Rewards learned from preferences between fragments of episodes: rlopt train AGENT --reward FOLDER.",
        SUBVERBS,
        argv,
    )


def new(argv: list[str]) -> int:
    """Makes a folder with settings and no answer; returns 0."""
    from rlopt.preferences.config import PreferenceConfig

    folder = argv[0] if argv and not argv[0].startswith("-") else None
    config = parse_settings("rlopt preferences new FOLDER", PreferenceConfig, argv[1:] if folder else argv)
    if folder is None:
        raise ConfigError("where? write rlopt preferences new FOLDER")
    _require_absent(folder)

    from rlopt.preferences.folder import save_preferences

    print(f"{save_preferences(folder, config)}: train on it with rlopt train sac --env ID --reward {folder}")
    return 0


def take(argv: list[str]) -> int:
    """Adds a preference set of others to a folder; returns 0."""
    parser = OneLineParser(prog="rlopt preferences import", description="Add a preference set to a folder.")
    parser.add_argument("folder", metavar="FOLDER", help="folder of preferences; a new one is made")
    parser.add_argument("file", metavar="FILE", help="an .npz of pairs, .jsonl rows, a folder of Hugging Face's "
        "datasets, or one of indices into a D4RL data set")  # fmt: skip
    parser.add_argument("--dataset", metavar="DATASET", help="the data set that indices name")
    parser.add_number("--length", Range(ge=1), help="steps of a fragment that indices name (default: as the files are "
        "named, else 100)")  # fmt: skip
    arguments = parser.parse(argv)

    from pathlib import Path

    from rlopt.preferences.config import PreferenceConfig
    from rlopt.preferences.folder import PreferenceFolder, load_preferences, save_preferences
    from rlopt.preferences.formats import read_preferences

    dataset = None
    if arguments.dataset is not None:
        from rlopt.data import load_dataset

        dataset = load_dataset(arguments.dataset)
    read = read_preferences(arguments.file, dataset=dataset, length=arguments.length)
    length = int(read.fragments.observations.shape[1])
    there = (
        load_preferences(arguments.folder)
        if Path(arguments.folder).exists()
        else PreferenceFolder(
            PreferenceConfig(teacher="none", fragment_length=length, recent_steps=max(20_000, 2 * length))
        )
    )
    if there.preferences is None:
        there = dataclasses.replace(there, config=dataclasses.replace(there.config, fragment_length=length))
    whole = read if there.preferences is None else there.preferences.more(read)
    # The model has not seen them: it is fitted anew.
    print(f"{save_preferences(arguments.folder, there.config, whole)}: {len(read)} answers more, {len(whole)} in all")
    return 0


def give(argv: list[str]) -> int:
    """Writes a folder's preferences for others; returns 0."""
    parser = OneLineParser(prog="rlopt preferences export", description="Write the preferences as pairs for others.")
    parser.add_argument("folder", metavar="FOLDER", help=_FOLDER)
    parser.add_argument(
        "out", metavar="OUT", help="an .npz file, a .jsonl file, or a folder for Hugging Face's datasets"
    )
    arguments = parser.parse(argv)

    from rlopt.preferences.folder import load_preferences
    from rlopt.preferences.formats import write_preferences

    there = _with_answers(load_preferences(arguments.folder), arguments.folder)
    assert there.preferences is not None
    print(f"{write_preferences(there.preferences, arguments.out)}: {len(there.preferences.pairs()[0])} pairs")
    return 0


def fit(argv: list[str]) -> int:
    """Fits a folder's reward model to its answers; returns 0."""
    parser = OneLineParser(prog="rlopt preferences fit", description="Fit the reward model to the answers, and say how "
        "well one that was fitted to four fifths orders the others.")  # fmt: skip
    parser.add_argument("folder", metavar="FOLDER", help="folder of preferences; the model is written into it")
    parser.add_argument("--env", metavar="ID", required=True, help="the environment that the fragments are of")
    parser.add_number("--seed", Range(ge=0), default=0, help="of the first weights and the batches (default 0)")
    arguments = parser.parse(argv)
    import_named_envs([arguments.env])

    import rlopt
    from rlopt.preferences.fitting import held_out_agreement
    from rlopt.preferences.folder import load_preferences, save_preferences

    there = _with_answers(load_preferences(arguments.folder), arguments.folder)
    assert there.preferences is not None
    env = rlopt.make_env(arguments.env)
    spaces = env.observation_space, env.action_space
    env.close()
    share = held_out_agreement(there, *spaces, seed=arguments.seed)
    learner = dataclasses.replace(there, model=None).learner(*spaces, seed=arguments.seed)
    learner.fit()
    save_preferences(arguments.folder, there.config, there.preferences, learner.model.tree())
    said = (
        "too few to hold any out" if share is None else f"{100 * share:.0f} % of the held-out pairs in the same order"
    )
    print(f"{arguments.folder}: {len(there.preferences)} answers, {said}; loss {learner.log['loss']:.3f}, "
          f"{100 * learner.log['agreement']:.0f} % of all pairs")  # fmt: skip
    return 0


def info(argv: list[str]) -> int:
    """Describes a folder; returns 0."""
    parser = OneLineParser(prog="rlopt preferences info", description="Describe preferences and their reward model.")
    parser.add_argument("folder", metavar="FOLDER", help=_FOLDER)
    arguments = parser.parse(argv)

    from rlopt.preferences.folder import load_preferences

    there = load_preferences(arguments.folder)
    lines: dict[str, Any] = {"teacher": there.config.teacher, "labels": f"{there.config.labels} in all"}
    if there.preferences is not None:
        fragments = there.preferences.fragments
        shape = fragments.observations.shape
        lines["answers"] = f"{len(there.preferences)} about {len(fragments)} fragments of up to {shape[1]} steps"
        lines["observations"], lines["actions"] = f"{shape[2]} numbers", str(fragments.actions.shape[2:])
    lines["model"] = f"fitted {there.model['fits']} times" if there.model else "not fitted"
    print("\n".join(f"{name:<14}{text}" for name, text in lines.items()))
    return 0


def _with_answers(there: PreferenceFolder, name: str) -> PreferenceFolder:
    if there.preferences is None:
        raise DataError(f"{name} has no answers yet: train with --reward {name}, or import some")
    return there


def _require_absent(folder: str) -> None:
    import os

    if os.path.lexists(folder):
        raise DataError(f"{folder} exists: choose another name, or delete it first")


SUBVERBS = {
    "new": (new, "make a folder with settings, for rlopt train --reward"),
    "import": (take, "add a preference set of others"),
    "export": (give, "write the answers as pairs for others"),
    "fit": (fit, "fit the reward model to the answers that are there"),
    "info": (info, "describe a folder, or a run that was trained with --reward"),
}
