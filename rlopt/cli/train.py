"""``rlopt train <agent> --env <id> ...``"""

from rlopt.cli.flags import parse_training
from rlopt.console.progress import say
from rlopt.errors import ConfigError, PluginError
from rlopt.registry import AGENT_GROUP, AGENTS, agent_names, agent_spec, import_agent, plugin_origin, resolve


def usage() -> str:
    """The text of ``rlopt train --help``."""
    width = max(map(len, agent_names())) + 2
    agents = "\n".join(f"  {name:<{width}}{_summary(name)}" for name in agent_names())
    return (
        "usage: rlopt train AGENT --env ID [--preset NAME] [--seed N] [--total-timesteps N] [--OPTION VALUE ...]\n\n"
        f"agents, or module:Class for your own:\n{agents}\n\n"
        "rlopt train AGENT --help lists every option. Values come from the agent's defaults, then the preset, then\n"
        "the flags. Ctrl-C writes a checkpoint and prints the command that continues; a second one aborts at once.\n\n"
        "example: rlopt train mdpo --env dm_control/cheetah-run --total-timesteps 1000000 --n-envs 8"
    )


def _summary(name: str) -> str:
    try:
        summary = agent_spec(name).summary
    except PluginError as error:  # which is no reason to hide the others
        return f"unusable: {error}"
    return summary if name in AGENTS else f"{summary} ({plugin_origin(AGENT_GROUP, name)})"


def _discrete_actions(demos: str) -> bool:
    from rlopt.data import load_demonstrations

    actions = load_demonstrations(demos).actions
    return actions.ndim == 1 and actions.dtype.kind in "iu"


def main(argv: list[str]) -> int:
    """Trains an agent; returns 0 when done, 130 or 143 when a signal stopped it."""
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not argv or argv[0].startswith("-"):
        raise ConfigError(
            f"which agent? write rlopt train AGENT --env ID, with AGENT one of {', '.join(agent_names())}"
        )
    agent = import_agent(argv[0])
    run_config, agent_config = parse_training(agent, resolve(agent_spec(agent).config), argv[1:])
    if (other := agent_spec(agent).discrete) and _discrete_actions(agent_config.demos):
        say(f"the demonstrations have Discrete actions: {other} is the {agent} for these")
        agent = other
        run_config, agent_config = parse_training(agent, resolve(agent_spec(agent).config), argv[1:])
    from rlopt.data.names import D4RL_NAMES

    if run_config.env and not (run_config.env in D4RL_NAMES and run_config.eval_every == 0):
        from rlopt.envs.names import check_id

        check_id(run_config.env)
    # torch takes seconds to import: who started this is told at once that the settings were read.
    say(f"{agent} on {run_config.env}: {run_config.total_timesteps:,} {agent_spec(agent).step_unit}")

    if run_config.seeds is not None:
        from rlopt.runs.multi_seed import train_seeds

        return train_seeds(agent, run_config, agent_config).exit_code

    from rlopt.runs.train import train

    return train(agent, run_config, agent_config).exit_code
