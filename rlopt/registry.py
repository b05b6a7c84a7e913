"""Names of agents and where their parts live, ours and those of other distributions. Imports no torch.

An installed distribution adds agents, environments and augmentations by entry points, which are imported when they are
used and not before. A class that no distribution names is called ``module:Class``; see :func:`import_agent`.
"""

import dataclasses
import functools
import importlib
import os
import re
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from rlopt.errors import ConfigError, ImportRefusedError, PluginError, RloptError, one_line, unknown_name

AGENT_GROUP = "rlopt.agents"
"""Entry points that each name an :class:`AgentSpec`, a function that returns one, or an agent's class."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class AgentSpec:
    """Where an agent's parts are: each an import string ``module:name``, resolved only when used."""

    config: str
    """The frozen dataclass with the agent's own settings; its module imports no torch."""
    algorithm: str
    """The Stable-Baselines3 algorithm class."""
    summary: str
    """One line for ``rlopt train --help``."""
    builder: str = ""
    """What makes the model of a run in place of :func:`rlopt.runs.build.build`; empty for that."""
    arguments: str = ""
    """Gives constructor arguments in addition to the agent's settings: ``(run, agent_config)`` to a dict."""
    loader: str = ""
    """What makes a model of a checkpoint's trees in place of :func:`rlopt.load`'s own: ``(algorithm, trees, env)``;
    empty for a Stable-Baselines3 algorithm."""
    completer: str = ""
    """What completes the settings of a run once its flags were read: ``(run, agent_config)`` to the same."""
    step_unit: str = "environment steps"
    """What the steps of its runs count; runs that count different things are not compared."""
    discrete: str = ""
    """The agent of the same method for Discrete actions, if that is another one."""


def _agent(algorithm: str, summary: str, **parts: str) -> AgentSpec:
    """One of rlopt's own: ``algorithm`` is below ``rlopt.agents``, its settings are CLASSConfig in ``config`` there."""
    room, name = algorithm.rpartition(".")[0], algorithm.partition(":")[2]
    parts = {"config": f"rlopt.agents.{room}.config:{name}Config", **parts}
    return AgentSpec(algorithm=f"rlopt.agents.{algorithm}", summary=summary, **parts)


def _offline(algorithm: str, summary: str) -> AgentSpec:
    run = "rlopt.agents.offline.run"
    parts = {"builder": f"{run}:build", "completer": f"{run}:complete", "step_unit": "gradient steps"}
    return _agent(f"offline.{algorithm}", summary, **parts)


_DEMONSTRATIONS = {
    "arguments": "rlopt.runs.demonstrations:demonstrations",
    "completer": "rlopt.runs.demonstrations:complete",
}
"""Of agents that can learn from demonstrations."""


def _imitation(algorithm: str, summary: str, discrete: str = "") -> AgentSpec:
    return _agent(algorithm, f"{summary}, from demonstrations", discrete=discrete, **_DEMONSTRATIONS)


def _made_by(run: str) -> dict[str, str]:
    """Of agents that are no Stable-Baselines3 algorithms."""
    return {"builder": f"{run}:build", "loader": f"{run}:load", "completer": f"{run}:complete"}


def _continuing(algorithm: str, summary: str) -> AgentSpec:
    summary += " (average reward, finitely many actions)"
    return _agent(f"loop.{algorithm}", summary, **_made_by("rlopt.agents.loop.run"))


AGENTS: dict[str, AgentSpec] = {
    "mdpo": _agent("mdpo.on_policy:MDPO", "mirror descent policy optimisation, on-policy"),
    "ppo": _agent("ppo.algorithm:PPO", "proximal policy optimisation, on-policy"),
    "apo": _agent("apo.algorithm:APO", "PPO for the average reward, on-policy"),
    "sac": _agent("sac.algorithm:SAC", "soft actor-critic, off-policy", **_DEMONSTRATIONS),
    "off_policy_mdpo": _agent(
        "mdpo.off_policy:OffPolicyMDPO",
        "mirror descent policy optimisation, off-policy (kl_coef=0 is SAC)",
        **_DEMONSTRATIONS,
    ),
    "deep_loop": _agent(
        "deep_loop.algorithm:DeepLOOP", "average reward with an optimistic bonus, experimental (bonus off: RVI-SAC)"
    ),
    "differential_dqn": _agent(
        "differential_dqn.algorithm:DifferentialDQN", "deep Q-learning for the average reward, for discrete actions"
    ),
    "ailboost": _imitation("ailboost.algorithm:AILBoost", "adversarial imitation by boosting"),
    "dac": _imitation("ailboost.algorithm:DAC", "discriminator-actor-critic"),
    "gail": _imitation("imitation.gail:GAIL", "generative adversarial imitation, on-policy"),
    "airl": _imitation("imitation.airl:AIRL", "adversarial inverse reinforcement learning, on-policy"),
    "dagger": _agent(
        "imitation.dagger:DAgger",
        "cloning of an expert who is asked where the learner goes (DAgger)",
        arguments="rlopt.agents.imitation.run:arguments",
        completer="rlopt.agents.imitation.run:complete",
    ),
    "sqil": _imitation("imitation.sqil:SQIL", "soft Q imitation learning", "discrete_sqil"),
    "discrete_sqil": _imitation("imitation.soft_q:DiscreteSQIL", "soft Q imitation learning, for discrete actions"),
    "iq_learn": _imitation("imitation.iq_learn:IQLearn", "inverse soft-Q learning", "discrete_iq_learn"),
    "discrete_iq_learn": _imitation(
        "imitation.soft_q:DiscreteIQLearn", "inverse soft-Q learning, for discrete actions"
    ),
    "value_dice": _imitation("imitation.value_dice:ValueDICE", "distribution matching by value"),
    "loop": _continuing("loop:LOOP", "LOOP, optimism with few policy switches"),
    "linear_loop": _continuing("linear_loop:LinearLOOP", "LOOP with values linear in features"),
    "mle_loop": _continuing("mle_loop:MLELOOP", "model-based LOOP"),
    "ucrl2": _continuing("baselines.ucrl2:UCRL2", "UCRL2, optimism over transition probabilities"),
    "ucrl3": _continuing("baselines.ucrl3:UCRL3", "UCRL3, intervals for each transition probability"),
    "kl_ucrl": _continuing("baselines.kl_ucrl:KLUCRL", "KL-UCRL, optimism over Kullback-Leibler balls"),
    "pmevi_dt": _continuing("baselines.pmevi_dt:PMEVIDT", "PMEVI-DT, optimism with the span read off the data"),
    "imed_rl": _continuing("baselines.imed_rl:IMEDRL", "IMED-RL, the action that the data refute least"),
    "psrl": _continuing("baselines.psrl:PSRL", "posterior sampling with the episodes of UCRL2"),
    "tsde": _continuing("baselines.tsde:TSDE", "posterior sampling with dynamic episodes"),
    "fopo": _continuing("baselines.fopo:FOPO", "linear LOOP's set, replanned by the determinant"),
    "olsvi_fh": _continuing("baselines.olsvi:OLSVIFH", "optimistic least squares over a fixed horizon"),
    "differential_q": _continuing("baselines.q_learning:DifferentialQ", "differential Q-learning"),
    "rvi_q": _continuing("baselines.q_learning:RVIQ", "RVI Q-learning"),
    "optimistic_q": _continuing("baselines.optimistic_q:OptimisticQ", "optimistic Q-learning"),
    "zo_ranksgd": _agent(
        "zo_ranksgd.policies.search:RankedPolicySearch",
        "policy search from rankings, of returns or of people who watch clips",
        config="rlopt.agents.zo_ranksgd.config:ZORankSGDConfig",
        **_made_by("rlopt.agents.zo_ranksgd.run"),
    ),
    "bc": _offline("bc:BC", "behaviour cloning of a data set"),
    "td3_bc": _offline("td3_bc:TD3BC", "TD3 with behaviour cloning, from a data set"),
    "awac": _offline("awac:AWAC", "advantage-weighted actor-critic, from a data set"),
    "iql": _offline("iql:IQL", "implicit Q-learning, from a data set"),
    "cql": _offline("cql:CQL", "conservative Q-learning, from a data set"),
    "rebrac": _offline("rebrac:ReBRAC", "behaviour-regularised actor-critic, from a data set"),
}
"""The agents of rlopt, and those that were registered in this process."""
_OWN = frozenset(AGENTS)
_ELSEWHERE = ("a2c", "ars", "ddpg", "dqn", "td3", "tqc", "trpo")
"""Agents that people know and that no name here means, however near it is."""
_KINDS_OF_LOOP = {"linear": "linear_loop", "mle": "mle_loop"}
"""Former kinds of the agent ``loop`` whose own name is another one now; ``value`` is ``loop`` itself."""


def agent_names() -> list[str]:
    """All agents by name: ours, those registered in this process, those of installed distributions. Imports nothing."""
    return [*AGENTS, *(name for name in plugin_names(AGENT_GROUP) if name not in AGENTS)]


def agent_spec(name: str) -> AgentSpec:
    """Returns the entry of agent ``name``; imports the plug-in that brings it, and nothing else.

    :raises rlopt.errors.UnknownNameError: there is no such agent, with the nearest name, or it is a class that was not
        named here, see :func:`import_agent`
    :raises rlopt.errors.PluginError: two distributions claim the name, or its plug-in is broken
    """
    if name in AGENTS:
        if name in _OWN:
            refuse_claims(AGENT_GROUP, name)
        return AGENTS[name]
    if name in plugin_names(AGENT_GROUP):
        return _plugin_spec(name)
    if _CLASS.fullmatch(name):
        cure = f"name it, --agent {name}, or call rlopt.registry.import_agent({name!r})"
        raise unknown_name("agent", name, (), f"files import no class: {cure}")
    if name.lower() in _ELSEWHERE:
        raise unknown_name("agent", name, (), "Stable-Baselines3 has it; rlopt train --help lists rlopt's own")
    raise unknown_name("agent", name, agent_names(), "rlopt train --help lists them")


@functools.cache
def _plugin_spec(name: str) -> AgentSpec:
    found = load_plugin(AGENT_GROUP, name)
    try:
        spec = spec_of(found) if isinstance(found, type) else found if isinstance(found, AgentSpec) else found()
        if not isinstance(spec, AgentSpec):
            raise TypeError(f"it gives a {type(spec).__name__}, not an AgentSpec")
        resolve(spec.config)
    except Exception as error:
        raise _broken(plugin_origin(AGENT_GROUP, name), AGENT_GROUP, name, error) from error
    return spec


def former_agent(agent: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The agent and its settings today, of a run folder in which LOOP's peers are ``loop`` with an ``agent_kind``.

    Version 0.1 wrote such folders.
    """
    if agent != "loop" or "agent_kind" not in settings:
        return agent, settings
    kind = str(settings["agent_kind"])
    given = {name: value for name, value in settings.items() if name != "agent_kind" and value is not None}
    if kind == "value":
        return "loop", {"procedure": "paper", **given}
    return _KINDS_OF_LOOP.get(kind, kind), given


def import_agent(name: str) -> str:
    """Makes the named agent usable; returns ``name``.

    A ``module:Class`` is imported and registered under that string, after which run folders that name it can be read in
    this process. Never call it with a string from a file. Any other name is looked up with :func:`agent_spec`.

    :raises rlopt.errors.ConfigError: it cannot be imported, or is not an agent
    """
    if name in AGENTS or ":" not in name:
        agent_spec(name)
        return name
    if not _CLASS.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} names no agent: write a name of rlopt train --help, or module:Class")
    # The rlopt command does not have the working directory among the places that it imports from.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = resolve(name)
    except PluginError as error:
        raise ConfigError(f"agent {name!r}: {error}") from None
    if not isinstance(found, type):
        raise ConfigError(f"agent {name!r} is not a class: name the class of the algorithm")
    AGENTS[name] = spec_of(found)
    return name


def refuse_import(env_id: object, where: str) -> None:
    """Raises for the id of an environment, read from a file, that names a module to import: no file causes an import.

    A module that this process has imported is fine: a person named it, on the command line or in a program.

    :param where: the file, for people
    :raises rlopt.errors.ImportRefusedError: with what to add to the command
    """
    module, colon, _ = str(env_id).rpartition(":")
    if colon and module not in sys.modules:
        raise ImportRefusedError(
            f"{where}: its environment {one_line(env_id)} imports a module, which no file may: add "
            f"--env {shlex.quote(str(env_id))} if you trust it"
        )


def register(algorithm: type) -> str:
    """Registers an agent's class under ``module:Class``, so that this process reads run folders of it; returns that.

    :raises rlopt.errors.ConfigError: it is not an agent, see :func:`spec_of`
    """
    name = _path_of(algorithm)
    AGENTS[name] = spec_of(algorithm)
    return name


def spec_of(algorithm: type) -> AgentSpec:
    """The entry of a class: that of the nearest registered class above it, with the class's own ``config_class``.

    :raises rlopt.errors.ConfigError: neither it nor a class above it says what its settings are, or it cannot be
        stopped and continued
    """
    path = _path_of(algorithm)
    if "<locals>" in path:
        raise ConfigError(f"{path} is inside a function, where no other process finds it: define it in a module")
    known = {spec.algorithm: spec for spec in AGENTS.values()}
    above = next((known[_path_of(base)] for base in algorithm.__mro__ if _path_of(base) in known), None)
    config = getattr(algorithm, "config_class", None)
    if above is None and not hasattr(algorithm, "at_boundary"):
        raise ConfigError(
            f"{path} cannot be stopped and continued: put rlopt.algorithms.resumable.Resumable before its base"
        )
    if config is None and above is None:
        raise ConfigError(f"{path} does not say what its settings are: give it config_class, a dataclass of them")
    if config is not None and not (hasattr(config, "__dataclass_fields__") and hasattr(config, "algorithm_kwargs")):
        raise ConfigError(f"config_class of {path} is not a dataclass with algorithm_kwargs(): see docs/recipes.md")
    summary = " ".join((algorithm.__doc__ or algorithm.__name__).strip().split("\n\n")[0].split()).rstrip(".")
    base = above or AgentSpec("", "", "")
    return dataclasses.replace(
        base, config=base.config if config is None else _path_of(config), algorithm=path, summary=summary
    )


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def resolve(import_string: str) -> Any:
    """Imports ``module:name``. For strings of programs and command lines, never for strings read from a file.

    :raises rlopt.errors.PluginError: it is not rlopt's own and cannot be imported
    """
    module, _, attribute = import_string.partition(":")
    package = module.partition(".")[0]
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if package == "rlopt" or isinstance(error, RloptError):
            raise
        if isinstance(error, ModuleNotFoundError):
            what = f"{error.name!r} cannot be imported: install it, correct its name, or run where it lies"
            raise PluginError(what) from error
        # Slow, and only for the error.
        owners = metadata.packages_distributions().get(package, [])
        of = f" of the distribution {', '.join(sorted(set(owners)))}" if owners else ""
        raise PluginError(f"{import_string}{of} cannot be used ({type(error).__name__}: {one_line(error)})") from error


def agent_name(algorithm_class: type) -> str:
    """The registered name of an algorithm class; raises :class:`rlopt.errors.UnknownNameError` for a foreign one."""
    path = _path_of(algorithm_class)
    for name, spec in AGENTS.items():
        if spec.algorithm == path:
            return name
    for name in plugin_names(AGENT_GROUP):
        try:
            module, _, attribute = _plugin_spec(name).algorithm.partition(":")
        except PluginError:
            continue  # another one's fault
        # A package may name its class by a place where it is not defined.
        if getattr(sys.modules.get(module), attribute, None) is algorithm_class:
            return name
    raise unknown_name("algorithm class", path, [spec.algorithm for spec in AGENTS.values()])


# ---- entry points of installed distributions


@functools.cache
def _entry_points(group: str) -> dict[str, dict[str, metadata.EntryPoint]]:
    """Name -> the distributions that claim it, and their entry points."""
    found: dict[str, dict[str, metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=group):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed distribution"
        found.setdefault(point.name, {})[origin] = point
    return found


def plugin_names(group: str) -> list[str]:
    """The names that installed distributions give in a group of entry points, in alphabetical order."""
    return sorted(_entry_points(group))


def plugin_origin(group: str, name: str) -> str:
    """The distributions that claim a name, with their versions."""
    return " and ".join(sorted(_entry_points(group)[name]))


def refuse_claims(group: str, name: str) -> None:
    """Raises :class:`rlopt.errors.PluginError` if a distribution claims a name that is rlopt's own."""
    if name in _entry_points(group):
        raise PluginError(
            f"{_what(group)} {name!r} is rlopt's own, and claimed by {plugin_origin(group, name)}: uninstall that"
        )


def load_plugin(group: str, name: str, *, call: bool = False) -> Any:
    """Imports what the entry point ``name`` names.

    :param call: also calls it, if it is a function
    :raises rlopt.errors.PluginError: several distributions claim the name, or it fails
    """
    claims, origin = _entry_points(group)[name], plugin_origin(group, name)
    if len(claims) > 1:
        raise PluginError(f"{_what(group)} {name!r} is claimed by {origin}: uninstall all but one")
    (point,) = claims.values()
    try:
        if not _NAME.fullmatch(name):
            raise ValueError("a name has letters, digits and _.- alone")
        found = point.load()
        return found() if call and callable(found) else found
    except (Exception, SystemExit) as error:
        raise _broken(origin, group, name, error) from error


def _what(group: str) -> str:
    return group.rpartition(".")[2].rstrip("s")


def _broken(origin: str, group: str, name: str, error: BaseException) -> PluginError:
    reason = f"{type(error).__name__}: {one_line(error)}"
    return PluginError(f"{_what(group)} {name!r} of {origin} cannot be loaded ({reason}): fix or uninstall it")
