"""``rlopt plan --env ID``"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rlopt.cli.parsing import OneLineParser, json_object
from rlopt.errors import ConfigError, one_line, unknown_name
from rlopt.settings.fields import JsonObject, Range

if TYPE_CHECKING:
    from rlopt.average_reward import AverageRewardSolution, FiniteMDP

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
        description="Solve the exact process of an environment that never ends: the largest long-run mean reward a "
        "step (gain), the bias and its span, an optimal policy and its stationary distribution.",
    )
    parser.add_argument("--env", metavar="ID", required=True, help="an environment with an exact process, rlopt/<name>")
    parser.add_argument("--env-kwargs", metavar="JSON", help=f"arguments, such as '{JsonObject.example}'")
    parser.add_argument("--method", metavar="NAME", default="policy-iteration", help=f"{', '.join(METHODS)}")
    parser.add_number("--rows", Range(ge=0), default=50, help="states to print (default 50)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def _process(env_id: str, keywords: dict[str, Any]) -> FiniteMDP:
    import gymnasium

    from rlopt.average_reward import FiniteMDP
    from rlopt.envs import names
    from rlopt.envs.make import is_about_arguments

    names.check_id(env_id)
    if names.is_dm_control(env_id):
        raise _no_process(env_id)
    names.register(env_id)
    try:
        env: Any = gymnasium.make(env_id, disable_env_checker=True, **keywords)
    except TypeError as error:
        if not is_about_arguments(error):
            raise
        raise ConfigError(f"{env_id} cannot be made with these arguments: {one_line(error)}") from None
    try:
        mdp = getattr(env.unwrapped, "mdp", None)
    finally:
        env.close()
    if not isinstance(mdp, FiniteMDP):
        raise _no_process(env_id)
    return mdp


def _no_process(env_id: str) -> ConfigError:
    return ConfigError(
        f"{env_id} has no exact process: give an environment with one, such as rlopt/RiverSwim-v0, or measure a policy "
        "with rlopt evaluate"
    )


def _record(env_id: str, mdp: FiniteMDP, solution: AverageRewardSolution) -> dict[str, Any]:
    return {
        "env": env_id,
        "states": mdp.n_states,
        "actions": mdp.n_actions,
        "method": solution.method,
        "iterations": solution.iterations,
        "gain": solution.gain,
        "gain_bracket": list(solution.gain_bracket),
        "span": solution.span,
        "residual": solution.residual,
        "bias": solution.bias.tolist(),
        "policy": solution.policy.tolist(),
        "stationary_distribution": solution.stationary_distribution.tolist(),
        "action_gaps": solution.action_gaps.tolist(),
    }


def format_solution(env_id: str, mdp: FiniteMDP, solution: AverageRewardSolution, rows: int) -> str:
    """What a person wants to know about a solution, then a line for each of the first ``rows`` states."""
    from rlopt.average_reward import regret_variance

    low, high = solution.gain_bracket
    gaps = solution.action_gaps
    worse = gaps[gaps > 1e-9]
    noise = 1.96 * regret_variance(mdp) ** 0.5
    head = {
        "environment": f"{env_id}, {mdp.n_states} states, {mdp.n_actions} actions",
        "method": f"{solution.method}, {solution.iterations} iterations, residual {solution.residual:.1e}",
        "gain": f"{solution.gain:.8g} a step, between {low:.10g} and {high:.10g}",
        "span": f"{solution.span:.8g}, the largest difference of the bias",
        "smallest gap": f"{worse.min():.4g} between an action and the best"
        if len(worse)
        else "all actions are as good",
        "noise": f"regret of the optimal policy itself: within {noise:.3g} sqrt(steps) in 95 % of runs",
    }
    lines = [f"{name:<15}{value}" for name, value in head.items()]
    lines += ["", f"{'state':>7}{'bias':>14}{'action':>8}{'stationary':>12}"]
    for state in range(min(rows, mdp.n_states)):
        share = solution.stationary_distribution[state]
        lines.append(f"{state:>7}{solution.bias[state]:>14.6g}{int(solution.policy[state]):>8}{share:>12.4g}")
    if rows < mdp.n_states:
        lines.append(f"... {mdp.n_states - rows} more states: --rows {mdp.n_states} or --json")
    return "\n".join(lines)
