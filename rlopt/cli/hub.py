"""``rlopt hub push|pull|list``: trained agents on the Hugging Face Hub."""

from pathlib import Path

from rlopt.cli.parsing import OneLineParser, run
from rlopt.console.progress import say
from rlopt.settings.fields import Range


def main(argv: list[str]) -> int:
    """Runs one subverb; returns its exit code."""
    return run("hub", "Trained agents on the Hugging Face Hub, and those that come with rlopt.", SUBVERBS, argv)


def _push(argv: list[str]) -> int:
    parser = OneLineParser(
        prog="rlopt hub push",
        description="Upload the policy of a run: its checkpoint without optimisers and replay, settings, versions, "
        "evaluations, video, and a model card made of them. Log in first with hf auth login.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, or a checkpoint")
    parser.add_argument("repo", metavar="USER/NAME", help="repository, created if it does not exist")
    parser.add_argument("--checkpoint", metavar="WHICH", help="latest, best, or a checkpoint's name (default: the "
        "one evaluated in RUN/evaluation.json, else latest)")  # fmt: skip
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    arguments = parser.parse(argv)

    from rlopt.hub.remote import push

    if not (arguments.run / "evaluation.json").is_file():
        print("note: the card will have no return: run rlopt evaluate RUN --video first")
    print(f"pushed: {push(arguments.run, arguments.repo, arguments.checkpoint, arguments.private)}")
    return 0


def _pull(argv: list[str]) -> int:
    parser = OneLineParser(
        prog="rlopt hub pull",
        description="Fetch an agent and verify its checkpoint. Only the files of a packed run are fetched, and nothing "
        "that a file says is executed.",
    )
    parser.add_argument("repo", metavar="USER/NAME", help="repository")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder, new or empty (default NAME)")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default the newest)")
    arguments = parser.parse(argv)

    from rlopt.hub.remote import pull
    from rlopt.run_folder import shell_quote

    out = pull(arguments.repo, arguments.out or Path(arguments.repo.rpartition("/")[2]), arguments.revision)
    print(f"run folder: {out}\nevaluate it with: rlopt evaluate {shell_quote(str(out))}")
    return 0


def _list(argv: list[str]) -> int:
    parser = OneLineParser(
        prog="rlopt hub list",
        description="List the agents that come with rlopt, and those on the Hugging Face Hub, most downloaded first.",
    )
    parser.add_argument("--author", metavar="USER", help="only agents of this user or organisation")
    parser.add_argument("--search", metavar="TEXT", help="only agents with this in their name")
    parser.add_number(
        "--limit", Range(ge=1, le=1000), default=50, help="largest number of agents from the Hub (default 50)"
    )
    parser.add_argument("--packaged", action="store_true", help="only agents that come with rlopt")
    arguments = parser.parse(argv)

    from rlopt.run_folder import read_json, trained_agents

    for name, folder in trained_agents().items():
        config, score = read_json(folder / "config.json"), read_json(folder / "evaluation.json")
        low, high = score["interval"]
        at = f"return {score['iqm']:.1f} [{low:.1f}, {high:.1f}]"
        print(f"{name:<36}{config['agent']:<18}{config['run']['env']:<34}{at}", flush=True)
    if not arguments.packaged:
        from rlopt.hub.remote import listed

        say("on the Hub (it is asked, and without a network its client tries for half a minute):")
        for found in listed(arguments.author, arguments.search, arguments.limit):
            print(f"{found.repo:<36}{found.downloads:>8,} downloads  {', '.join(found.tags[:6])}")
    return 0


SUBVERBS = {
    "push": (_push, "upload the policy of a run, with a model card"),
    "pull": (_pull, "fetch an agent into a folder that rlopt evaluate takes"),
    "list": (_list, "list agents that come with rlopt, and those on the Hub"),
}
