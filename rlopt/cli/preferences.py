"""``rlopt preferences SUBVERB``: answers about fragments of episodes, and reward models learned from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.cli.flags import parse_settings
from rlopt.cli.parsing import OneLineParser, import_named_envs, run, say_reading
from rlopt.errors import ConfigError, DataError, StudyError
from rlopt.feedback import require_packages
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
    parser = OneLineParser(prog="rlopt preferences import", description="Add a preference data set to a folder.")
    parser.add_argument("folder", metavar="FOLDER", help="folder of preferences; a new one is made")
    parser.add_argument("file", metavar="FILE", help="an .npz of pairs, .jsonl rows, a folder of Hugging Face's "
        "datasets, or one of indices into a D4RL data set")  # fmt: skip
    parser.add_argument("--dataset", metavar="DATASET", help="data set to which indices refer")
    parser.add_number("--length", Range(ge=1), help="steps of a fragment given by indices (default: from the names of "
        "the files, else 100)")  # fmt: skip
    arguments = parser.parse(argv)
    say_reading("preferences import")

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
    # The model has not seen them: it is fitted again.
    print(f"{save_preferences(arguments.folder, there.config, whole)}: {len(read)} answers more, {len(whole)} in all")
    return 0


def give(argv: list[str]) -> int:
    """Writes a folder's preferences for others; returns 0."""
    parser = OneLineParser(
        prog="rlopt preferences export", description="Write the preferences as pairs for other programs."
    )
    parser.add_argument("folder", metavar="FOLDER", help=_FOLDER)
    parser.add_argument(
        "out", metavar="OUT", help="an .npz file, a .jsonl file, or a folder for Hugging Face's datasets"
    )
    arguments = parser.parse(argv)
    say_reading("preferences export")

    from rlopt.preferences.folder import load_preferences
    from rlopt.preferences.formats import write_preferences

    there = _with_answers(load_preferences(arguments.folder), arguments.folder)
    assert there.preferences is not None
    print(f"{write_preferences(there.preferences, arguments.out)}: {len(there.preferences.pairs()[0])} pairs")
    return 0


def fit(argv: list[str]) -> int:
    """Fits a folder's reward model to its answers; returns 0."""
    parser = OneLineParser(prog="rlopt preferences fit", description="Fit the reward model to the answers, and say how "
        "well a model that is fitted to four fifths of them orders the rest.")  # fmt: skip
    parser.add_argument("folder", metavar="FOLDER", help="folder of preferences; the model is written into it")
    parser.add_argument("--env", metavar="ID", required=True, help="environment of the fragments")
    parser.add_number("--seed", Range(ge=0), default=0, help="seed of the initial weights and the batches (default 0)")
    arguments = parser.parse(argv)
    say_reading("preferences fit")
    import_named_envs([arguments.env])

    from rlopt.preferences.folder import held_out_agreement, load_preferences, save_preferences

    there = _with_answers(load_preferences(arguments.folder), arguments.folder)
    assert there.preferences is not None
    spaces = _spaces(arguments.env)
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


def ask(argv: list[str]) -> int:
    """Asks people about filmed fragments; returns 0 when all is answered, 130 or 143 after a signal."""
    arguments = _ask_parser().parse(argv)
    import_named_envs([arguments.env])
    require_packages()

    import rlopt
    from rlopt.agents.zo_ranksgd.policies import study_server
    from rlopt.agents.zo_ranksgd.policies.human import LOOK_SECONDS
    from rlopt.console.progress import say
    from rlopt.console.signals import StopSignals
    from rlopt.envs.settings import EnvSettings
    from rlopt.feedback.store import open_store
    from rlopt.feedback.study import HumanStudy
    from rlopt.preferences.config import PreferenceConfig
    from rlopt.preferences.folder import load_preferences, save_preferences
    from rlopt.preferences.people import Film, FragmentQuestions, film_fragments

    folder = Path(arguments.folder)
    place = Path(arguments.study or f"{folder}.study")
    config = load_preferences(folder).config if folder.exists() else PreferenceConfig(teacher="none")
    if folder.exists() and not place.exists() and load_preferences(folder).preferences is not None:
        raise DataError(f"{folder} holds answers of other people already: give another folder")
    filmed = place / "filmed"
    if (filmed / "fragments").exists():
        film = Film.load(filmed)
    else:
        policy = None if arguments.policy is None else rlopt.load(arguments.policy, device="cpu")
        length = config.fragment_length
        say(f"filming {arguments.fragments} fragments of {length} steps")
        settings = EnvSettings(id=arguments.env)
        film = film_fragments(settings, policy, arguments.fragments, length, filmed, seed=arguments.seed)
        film.save(filmed)
    people, name = arguments.parallel_rounds, folder.absolute().name
    questions = FragmentQuestions(film, config, *_spaces(arguments.env), people=people, seed=arguments.seed)
    store = open_store(str(place), None, create=True)
    try:
        study = HumanStudy(
            store, name, questions, questions.render, annotators=arguments.annotators,
            instructions=arguments.instructions, deadline_seconds=LOOK_SECONDS, config={"parallel_rounds": people},
        )  # fmt: skip
        begun = study.study.config.get("parallel_rounds")
        if begun != people:
            raise StudyError(f"study {name!r} has parallel_rounds={begun}, not {people}: keep it, or use another study")
        with StopSignals("stopping; the same command continues with the study") as stop:
            port = None if arguments.no_serve else arguments.port
            done = study_server.ask_people(
                study, place, arguments.questions, port=port, stopping=lambda: stop.received is not None
            )
    finally:
        store.close()
    answers = questions.preferences()
    # Nobody else is asked during a training.
    save_preferences(folder, dataclasses.replace(config, teacher="none"), answers)
    print(f"{folder}: {len(answers)} answers; fit the model with rlopt preferences fit {folder} --env {arguments.env}")
    return 0 if done else stop.exit_code


def _ask_parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt preferences ask",
        description="Film fragments of a policy, and ask people in the browser which are better. The same command "
        "continues a study.",
    )
    add, number = parser.add_argument, parser.add_number
    add("folder", metavar="FOLDER", help="folder of preferences that gets the answers; a new one is made")
    add("--env", metavar="ID", required=True, help="the environment")
    add("--policy", metavar="RUN", help="run or checkpoint whose policy is filmed (default: random actions)")
    number("--fragments", Range(ge=2), default=60, help="number of fragments to film (default 60)")
    number("--questions", Range(ge=1), default=30, help="total number of questions (default 30)")
    add("--study", metavar="FOLDER", help="folder of the study and its clips (default: FOLDER.study)")
    add("--instructions", metavar="TEXT", default="Which clip is better?", help="text above the clips")
    number("--annotators", Range(ge=1, le=100), default=1, help="answers to each question (default 1)")
    number("--parallel-rounds", Range(ge=1, le=1000), default=1, metavar="N", help="people who answer at once, each a "
        "different question (default 1)")  # fmt: skip
    number("--seed", Range(ge=0), default=0, help="seed of the episodes and the questions (default 0)")
    add("--no-serve", action="store_true", help="start no server; run rlopt rank serve in another process")
    number("--port", Range(ge=0, le=65535), default=0, help="port of the server (default 0: a free one)")
    return parser


def info(argv: list[str]) -> int:
    """Describes a folder; returns 0."""
    parser = OneLineParser(prog="rlopt preferences info", description="Describe preferences and their reward model.")
    parser.add_argument("folder", metavar="FOLDER", help=_FOLDER)
    arguments = parser.parse(argv)
    say_reading("preferences info")

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


def _spaces(env_id: str) -> tuple[Any, Any]:
    from rlopt.envs.make import make_env

    env = make_env(env_id)
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces


def _with_answers(there: PreferenceFolder, name: str) -> PreferenceFolder:
    if there.preferences is None:
        raise DataError(
            f"{name} has no answers: give a run that was trained with --reward, import some, or ask people with rlopt "
            "preferences ask"
        )
    return there


def _require_absent(folder: str) -> None:
    import os

    if os.path.lexists(folder):
        raise DataError(f"{folder} exists: choose another name, or delete it first")


SUBVERBS = {
    "new": (new, "make a folder with settings, for rlopt train --reward"),
    "ask": (ask, "film fragments of a policy and let people rank them"),
    "import": (take, "add another preference data set"),
    "export": (give, "write the answers as pairs for other programs"),
    "fit": (fit, "fit the reward model to the answers"),
    "info": (info, "describe a folder, or a run that was trained with --reward"),
}
