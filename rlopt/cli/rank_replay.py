"""``rlopt rank replay STUDY``"""

from __future__ import annotations

from rlopt.cli.parsing import OneLineParser
from rlopt.cli.rank_options import add_study_options, open_study


def main(argv: list[str]) -> int:
    """Runs the search again on the stored answers; returns 0 if every state comes out bit for bit."""
    parser = OneLineParser(
        prog="rlopt rank replay",
        description="Run a study's search again from its first state on the answers that were used, and compare every "
        "query and every state with what is stored, bit for bit (of a policy search, every query and the last state). "
        "A difference is an error that names the round.",
    )
    add_study_options(parser)
    store, study = open_study(parser.parse(argv))

    from rlopt.agents.zo_ranksgd.policies.study_replay import optimizer_of
    from rlopt.feedback.study import replay

    optimizer, part = optimizer_of(store, study)
    count = replay(store, study, optimizer, part)
    compared = "state" if part is None else "query and the last state"
    print(f"study {study.name!r}: {count} rounds replayed, every {compared} is that of the answers")
    return 0
