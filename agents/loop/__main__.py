"""``python -m rlopt.agents.loop --env ID``: learns in an environment that never ends and prints what came of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rlopt.agents.loop.config import LinearLOOPConfig
from rlopt.cli.parsing import OneLineParser
from rlopt.config import RunConfig, coerce, field_types
from rlopt.errors import ConfigError, RloptError


def main(argv: list[str]) -> int:
    """Trains one agent; returns 0, or 2 with a line that says what is wrong."""
    try:
        _train(argv)
    except RloptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _train(argv: list[str]) -> None:
    settings = field_types(LinearLOOPConfig)
    parser = OneLineParser(prog="python -m rlopt.agents.loop", description="Average-reward learning with LOOP.")
    parser.add_argument("--env", default="rlopt/RiverSwim-v0", help="environment id (default rlopt/RiverSwim-v0)")
    parser.add_argument("--kind", choices=("tabular", "linear"), default="tabular", help="LOOP (default) or LinearLOOP")
    parser.add_argument("--total-timesteps", default="100000", help="steps (default 100000)")
    parser.add_argument("--seed", default="0", help="of the environment (default 0)")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the agent there")
    for name in settings:
        parser.add_argument("--" + name.replace("_", "-"), help="see rlopt/agents/loop/config.py")
    given = vars(parser.parse(argv))
    steps, seed = (coerce(given[name], field_types(RunConfig)[name]) for name in ("total_timesteps", "seed"))
    chosen: dict[str, Any] = {name: coerce(given[name], settings[name]) for name in settings if given[name] is not None}
    if given["kind"] == "tabular" and "ridge" in chosen:
        raise ConfigError("--ridge is a setting of --kind linear")

    import rlopt

    agent = (rlopt.LOOP if given["kind"] == "tabular" else rlopt.LinearLOOP)(given["env"], seed=seed, **chosen)
    began = time.perf_counter()
    agent.learn(steps)
    seconds = time.perf_counter() - began
    print(f"average reward  {agent.reward_sum / max(steps, 1):.5f} over {steps:,} steps, {seconds:.1f} s")
    print(f"plan's gain     {agent.gain:.5f} after {agent.n_switches} switches, beta {agent.beta:.4g}")
    mdp = getattr(agent.process, "mdp", None)
    if mdp is not None:
        print(f"best gain       {mdp.gain:.5f}: regret {mdp.gain * steps - agent.reward_sum:.1f}")
    if given["save"] is not None:
        print(f"saved           {agent.save(given['save'])}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
