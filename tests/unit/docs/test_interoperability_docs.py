"""docs/interoperability.md does what it says."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from rlopt.agents.mdpo.config import MDPOConfig, OffPolicyMDPOConfig
from rlopt.cli.flags import parse_training

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "interoperability.md").read_text()


def test_the_settings_of_the_commands_are_those_meant() -> None:
    commands = re.findall(r"^rlopt train (\w+) (.*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 3
    configs = {"mdpo": MDPOConfig, "off_policy_mdpo": OffPolicyMDPOConfig}
    parsed = [parse_training(agent, configs[agent], shlex.split(flags, comments=True)) for agent, flags in commands]
    assert parsed.pop(0)[0].wandb == "hopper"
    settings = [agent_config for _, agent_config in parsed]
    policy = settings[0].algorithm_kwargs()["policy_kwargs"]
    assert policy["optimizer_class"] == "adabelief"
    assert policy["optimizer_kwargs"] == {"weight_decay": 0.01, "betas": (0.9, 0.99)}
    rate = settings[1].algorithm_kwargs()["learning_rate"]
    assert (rate.shape, rate.warmup, rate.floor) == ("cosine", 0.05, 0.1)


def test_the_results_are_what_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    sys.modules.pop("benchmark_optimizers", None)
    import benchmark_optimizers

    page = (ROOT / "docs/results/optimizers.md").read_text()
    tables = re.sub(r"\n\n!\[The table above as a picture[^\n]*", "", page)
    assert tables == benchmark_optimizers.page(benchmark_optimizers.RESULTS.find())
