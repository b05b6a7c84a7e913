"""The agents of never-ending tasks as ``rlopt train loop --agent-kind`` names them. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rlopt.config import AgentConfig, Range, check_settings
from rlopt.errors import ConfigError
from rlopt.registry import resolve

_BASELINES = "rlopt.agents.loop.baselines"
KINDS: dict[str, tuple[str, str]] = {
    "value": ("rlopt.agents.loop.loop:LOOP", "rlopt.agents.loop.config:LOOPConfig"),
    "linear": ("rlopt.agents.loop.linear_loop:LinearLOOP", "rlopt.agents.loop.config:LinearLOOPConfig"),
    "mle": ("rlopt.agents.loop.mle_loop:MLELOOP", "rlopt.agents.loop.config:MLELOOPConfig"),
    "ucrl2": (f"{_BASELINES}.ucrl2:UCRL2", f"{_BASELINES}.config:UCRL2Config"),
    "tsde": (f"{_BASELINES}.tsde:TSDE", f"{_BASELINES}.config:TSDEConfig"),
    "fopo": (f"{_BASELINES}.fopo:FOPO", f"{_BASELINES}.config:FOPOConfig"),
    "olsvi_fh": (f"{_BASELINES}.olsvi:OLSVIFH", f"{_BASELINES}.config:OLSVIFHConfig"),
    "differential_q": (f"{_BASELINES}.q_learning:DifferentialQ", f"{_BASELINES}.config:DifferentialQConfig"),
    "rvi_q": (f"{_BASELINES}.q_learning:RVIQ", f"{_BASELINES}.config:RVIQConfig"),
    "optimistic_q": (f"{_BASELINES}.optimistic_q:OptimisticQ", f"{_BASELINES}.config:OptimisticQConfig"),
}
"""Kind -> import strings of the agent and of its settings."""


@dataclass(frozen=True, kw_only=True)
class ContinuingConfig(AgentConfig):
    """LOOP and its peers in a task that never ends; a setting that is none is the default of the kind."""

    agent_kind: Literal[
        "value",
        "linear",
        "mle",
        "ucrl2",
        "tsde",
        "fopo",
        "olsvi_fh",
        "differential_q",
        "rvi_q",
        "optimistic_q",
    ] = "value"
    """value and linear are LOOP on counts and on features, mle is MLE-LOOP; ucrl2, tsde (posterior sampling), fopo,
    olsvi_fh, differential_q, rvi_q and optimistic_q are its peers."""
    planner: Literal["bonus", "ellipsoid"] | None = None
    """value, linear, fopo: how an optimistic plan is found."""
    model: Literal["auto", "tabular", "mixture"] | None = None
    """mle: which processes are thought possible."""
    beta_scale: Annotated[float, Range(gt=0)] | None = None
    """value, linear, fopo, mle: size of the confidence set in units of what theory suggests, > 0."""
    span: Annotated[float, Range(gt=0)] | None = None
    """value, linear, fopo, mle, optimistic_q: bound of max - min of the optimal bias, > 0; none takes the exact one."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """Steps that the confidence level is meant for, >= 1; none takes total_timesteps."""
    delta: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Probability that the confidence set may miss the truth, in (0, 1)."""
    switch_multiplier: Annotated[float, Range(gt=1)] | None = None
    """value, linear, mle: multiple of the threshold at which a new plan is made, > 1."""
    tolerance: Annotated[float, Range(gt=0)] | None = None
    """Accuracy of plans, > 0."""
    max_sweeps: Annotated[int, Range(ge=1)] | None = None
    """Sweeps after which a plan is taken as it is."""
    ridge: Annotated[float, Range(gt=0)] | None = None
    """linear, fopo, olsvi_fh: regularisation of the regression, > 0."""
    determinant_factor: Annotated[float, Range(gt=1)] | None = None
    """fopo: growth of the determinant at which a new plan is made, > 1."""
    transition_scale: Annotated[float, Range(ge=0)] | None = None
    """ucrl2: constant of the radius of a transition law; paper: 14."""
    reward_scale: Annotated[float, Range(ge=0)] | None = None
    """ucrl2: constant of the width of a mean reward; paper: 7."""
    prior: Annotated[float, Range(gt=0)] | None = None
    """tsde: Dirichlet parameter of each next state."""
    rewards: Literal["known", "noisy"] | None = None
    """tsde: whether mean rewards are known once seen, or drawn from a posterior."""
    learning_rate: Annotated[float, Range(gt=0, le=1)] | None = None
    """differential_q, rvi_q: step size of the action values, in (0, 1]."""
    gain_rate: Annotated[float, Range(gt=0)] | None = None
    """differential_q: step size of the gain relative to that of the values."""
    epsilon: Annotated[float, Range(ge=0, le=1)] | None = None
    """differential_q, rvi_q: probability of a uniform action, in [0, 1]."""
    decay: Annotated[float, Range(ge=0, le=1)] | None = None
    """differential_q, rvi_q: exponent with which step sizes fall in the visits, in [0, 1]."""
    initial_value: float | None = None
    """differential_q, rvi_q: of all action values."""
    reference: Literal["pair", "state", "mean"] | None = None
    """rvi_q: what of the values is the gain."""
    effective_horizon: Annotated[float, Range(ge=2)] | None = None
    """optimistic_q: H >= 2, the discount is 1 - 1/H."""
    bonus_scale: Annotated[float, Range(ge=0)] | None = None
    """optimistic_q, olsvi_fh: constant of the bonus."""
    episode_length: Annotated[int, Range(ge=1)] | None = None
    """olsvi_fh: steps of a finite-horizon episode."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the kind's class that are given.

        :raises ConfigError: a setting that the kind has not, or a value out of its range
        """
        given = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "agent_kind" and (value := getattr(self, field.name)) is not None
        }
        own = {field.name for field in dataclasses.fields(resolve(KINDS[self.agent_kind][1]))}
        for name in given:
            if name not in own:
                flag = "--" + name.replace("_", "-")
                users = [kind for kind, (_, config) in KINDS.items() if hasattr(resolve(config)(), name)]
                raise ConfigError(f"{flag} is no setting of the kind {self.agent_kind}: {', '.join(users)} have it")
        check_settings(resolve(KINDS[self.agent_kind][1])(**given))
        return given
