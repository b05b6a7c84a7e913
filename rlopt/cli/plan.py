"""``rlopt plan --env ID``"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from rlopt.cli.parsing import OneLineParser, json_object
from rlopt.errors import ConfigError, unknown_name
from rlopt.settings.fields import JsonObject, Range

if TYPE_CHECKING:
    from rlopt.average_reward import AverageRewardSolution, DecisionProcess

METHODS = {
    "policy-iteration": "policy_iteration",
    "value-iteration": "relative_value_iteration",
    "linear-program": "linear_program",
}


def main(argv: list[str]) -> int:
    """Solves the exact process of an environment and prints what is optimal in it; returns 0."""
    arguments = _parser().parse(argv)
    if arguments.method not in METHODS:
        raise unknown_name("method", arguments.method, METHODS)
    mdp = _process(arguments.env, json_object("--env-kwargs", arguments.env_kwargs) or {})

    from rlopt import average_reward

    solution = getattr(average_reward, METHODS[arguments.method])(mdp)
    if arguments.json:
        json.dump(_record(arguments.env, mdp, solution), sys.stdout, indent=1)
        print()
    else:
        print(format_solution(arguments.env, mdp, solution, arguments.rows))
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt plan",
        description="Solve the exact process of an environment: the largest long-run mean reward per "
        "step (gain) with proven bounds, the bias and its span, an optimal policy and its stationary distribution. "
        "If a Gymnasium environment with a table P, such as FrozenLake-v1, has episodes, they restart at their ends.",
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        required=True,
        help="an environment with an exact process: rlopt/<name>, or Gymnasium's with a P",
    )
    parser.add_argument("--env-kwargs", metavar="JSON", help=f"arguments, such as '{JsonObject.example}'")
    parser.add_argument("--method", metavar="NAME", default="policy-iteration", help=f"{', '.join(METHODS)}")
    parser.add_number("--rows", Range(ge=0), default=50, help="states to print (default 50)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def _process(env_id: str, keywords: dict[str, Any]) -> DecisionProcess:
    from gymnasium import Wrapper, wrappers

    from rlopt.average_reward import DecisionProcess, FiniteMDP
    from rlopt.envs import names
    from rlopt.envs.make import make_single
    from rlopt.envs.settings import EnvSettings

    names.check_id(env_id)
    if names.is_dm_control(env_id):
        raise _no_process(env_id)
    env: Any = make_single(EnvSettings(id=env_id, env_kwargs=keywords or None), seed=0)
    layer, harmless = env, (wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.RecordEpisodeStatistics)
    try:
        while isinstance(layer, Wrapper):
            if type(layer) not in harmless:
                raise ConfigError(
                    f"{env_id} has a {type(layer).__name__} around it, of which its exact process knows nothing: "
                    "register the environment without it"
                )
            layer = layer.env
        mdp = getattr(env.unwrapped, "mdp", None)
        if isinstance(getattr(env.unwrapped, "P", None), dict):
            mdp = FiniteMDP.from_gymnasium(env)
    finally:
        env.close()
    if not isinstance(mdp, DecisionProcess):
        raise _no_process(env_id)
    return mdp


def _no_process(env_id: str) -> ConfigError:
    return ConfigError(
        f"{env_id} has no exact process: give an environment with one, such as rlopt/RiverSwim-v0 or FrozenLake-v1, or "
        "measure a policy with rlopt evaluate --average-reward"
    )


def _record(env_id: str, mdp: DecisionProcess, solution: AverageRewardSolution) -> dict[str, Any]:
    from rlopt.average_reward import structure

    # JSON has no infinity: the gap of an impossible action is null.
    gaps = [[gap if math.isfinite(gap) else None for gap in row] for row in solution.action_gaps.tolist()]
    return {
        "env": env_id,
        "states": mdp.n_states,
        "actions": mdp.n_actions,
        "method": solution.method,
        "iterations": solution.iterations,
        "structure": structure(mdp).kind,
        "gain": solution.gain if solution.is_constant else None,
        "gain_bracket": list(solution.gain_bracket) if solution.is_constant else None,
        "gains": solution.gains.tolist(),
        "span": solution.span,
        "residual": solution.residual,
        "bias": solution.bias.tolist(),
        "policy": solution.policy.tolist(),
        "stationary_distribution": solution.stationary_distribution.tolist(),
        "action_gaps": gaps,
    }


def format_solution(env_id: str, mdp: DecisionProcess, solution: AverageRewardSolution, rows: int) -> str:
    """What a person wants to know about a solution, then a line for each of the first ``rows`` states."""
    from rlopt.average_reward import FiniteMDP, regret_variance, structure

    gaps = solution.action_gaps
    worse = gaps[(gaps > 1e-9 * max(solution.span, float(abs(solution.gains).max()))) & (gaps < math.inf)]
    head = {
        "environment": f"{env_id}, {mdp.n_states} states, {mdp.n_actions} actions, {structure(mdp).kind}",
        "method": f"{solution.method}, {solution.iterations} iterations, residual {solution.residual:.1e}",
    }
    if solution.is_constant:
        low, high = solution.gain_bracket
        head |= {
            "gain": f"{solution.gain:.8g} a step, proved to be between {low:.10g} and {high:.10g}",
            "span": f"{solution.span:.8g}, the largest difference of the bias",
            "smallest gap": f"{worse.min():.4g} between an action and the best"
            if len(worse)
            else "all actions are as good",
        }
        if isinstance(mdp, FiniteMDP):
            noise = 1.96 * regret_variance(mdp) ** 0.5
            head["noise"] = f"regret of the optimal policy itself: within {noise:.3g} sqrt(steps) in 95 % of runs"
    else:
        low, high = float(solution.gains.min()), float(solution.gains.max())
        head["gain"] = f"from {low:.8g} to {high:.8g} a step: it depends on the first state"
    lines = [f"{name:<15}{value}" for name, value in head.items()]
    lines += ["", f"{'state':>7}{'gain':>14}{'bias':>14}{'action':>8}{'stationary':>12}"]
    for state in range(min(rows, mdp.n_states)):
        share = solution.stationary_distribution[state]
        numbers = f"{state:>7}{solution.gains[state]:>14.6g}{solution.bias[state]:>14.6g}"
        lines.append(f"{numbers}{int(solution.policy[state]):>8}{share:>12.4g}")
    if rows < mdp.n_states:
        lines.append(f"... {mdp.n_states - rows} more states: --rows {mdp.n_states} or --json")
    return "\n".join(lines)
