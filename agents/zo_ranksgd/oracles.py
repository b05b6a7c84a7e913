"""The oracle that the settings of a search name."""

from __future__ import annotations

from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.feedback.oracles import Oracle, ReturnOracle, person


def oracle_of(config: ZORankSGDConfig) -> Oracle | None:
    """The oracle that the settings name; None for people."""
    if config.oracle == "human":
        return None
    if config.oracle == "return":
        return ReturnOracle()
    return person(
        config.temperature,
        config.closeness,
        config.flip_probability,
        config.lazy_probability,
        config.abstain_probability,
    )
