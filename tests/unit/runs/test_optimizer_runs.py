"""Runs with another optimiser and a schedule: from flags, in several seeds at once, stopped and continued."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from runs import AGENT, assert_same_result, leaves, read_csv, send_signal_at, settings

import rlopt
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.checkpoint.files import latest_checkpoint
from rlopt.cli.main import main
from rlopt.runs.multi_seed import train_seeds
from rlopt.runs.train import resume, train

CHANGES: dict[str, Any] = {
    "optimizer": "adabelief",
    "optimizer_kwargs": ("weight_decay=0.01",),
    "learning_rate_schedule": "cosine",
    "learning_rate_warmup": 0.1,
    "learning_rate_floor": 0.0,
    "compile": "on",
}
ON_POLICY = dataclasses.replace(AGENT, **CHANGES)
OFF_POLICY = OffPolicyMDPOConfig(net_arch=(8,), batch_size=8, learning_starts=40, buffer_size=400, **CHANGES)


@pytest.mark.parametrize(("agent", "config"), [("mdpo", ON_POLICY), ("off_policy_mdpo", OFF_POLICY)])
def test_seeds_together_are_the_seeds_alone(agent: str, config: Any, tmp_path: Path) -> None:
    short = {"total_timesteps": 128, "eval_every": 0}
    train_seeds(agent, settings(tmp_path / "together", seeds="1,2", **short), config)
    for seed in (1, 2):
        train(agent, settings(tmp_path / f"seed{seed}", seed=seed, **short), config)
        together, alone = (
            latest_checkpoint(folder / f"seed{seed}" / "checkpoints", print).trees["networks"]
            for folder in (tmp_path / "together", tmp_path)
        )
        assert leaves(together) == leaves(alone)


@pytest.mark.parametrize(("agent", "config"), [("mdpo", ON_POLICY), ("off_policy_mdpo", OFF_POLICY)])
def test_a_run_is_continued_bit_for_bit(
    agent: str, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(agent, settings(tmp_path / "whole"), config)
    with monkeypatch.context() as patch:
        send_signal_at(patch, 160)
        assert train(agent, settings(tmp_path / "stopped"), config).exit_code == 130
    assert resume(tmp_path / "stopped").exit_code == 0
    assert_same_result(tmp_path / "whole", tmp_path / "stopped")
    model = rlopt.load(tmp_path / "whole", device="cpu")
    optimizer = model.policy.optimizer if agent == "mdpo" else model.critic.optimizer
    assert type(optimizer).__name__ == "AdaBelief" and optimizer.param_groups[0]["weight_decay"] == 0.01


def test_the_rate_in_the_log_follows_the_schedule(tmp_path: Path) -> None:
    train("mdpo", settings(tmp_path / "run", eval_every=0), dataclasses.replace(ON_POLICY, learning_rate=1.0))
    rates = [float(row["train/learning_rate"]) for row in read_csv(tmp_path / "run/progress.csv")]
    # Ten rollouts: a tenth of the run after the first, where the warm-up has ended, and nothing left after the last.
    assert rates[0] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_a_wrong_optimizer_is_one_line_and_leaves_no_folder(tmp_path: Path, capsys: Any) -> None:
    for flags, message in (
        (["--optimizer", "adabelif"], "did you mean 'adabelief'"),
        (["--optimizer", "lbfgs"], "closure"),
        (["--optimizer-kwargs", "momentum=0.9"], "momentum"),
        (["--optimizer-kwargs", "0.9"], "NAME=VALUE"),
    ):
        run = ["train", "mdpo", "--env", "rlopt/RandomTarget-v0", "--run-dir", str(tmp_path / "run"), *flags]
        assert main(run) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "run").exists()
