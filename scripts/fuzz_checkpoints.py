"""Damage checkpoints at random and count what loading makes of them.

Two sound checkpoints are written, then the newer one is damaged in one of the ways of ``checkpoint_damage.py``, over
and over. Each time, the newest sound checkpoint is sought, restored into a fresh model, and the damaged one is given to
``rlopt.load``.

Sound outcomes are ``CheckpointError`` (and with it the fallback to the older checkpoint) or exactly the original state.
Anything else is a failure: another exception, another state, a file touched outside, a runaway amount of memory.

    python scripts/fuzz_checkpoints.py --cases 2000 --seed 0
"""

import random
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_damage import DAMAGE
from fuzzing import Report, differences, inventory, main
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.checkpoint.files import latest_checkpoint, read_checkpoint
from rlopt.checkpoint.model_state import capture_state, restore_state, save_checkpoint
from rlopt.errors import CheckpointError

MEMORY_LIMIT_MB = 1500
AGENTS = ("off_policy_mdpo", "mdpo")


def make_model(agent: str) -> Any:
    """A small agent on two pendulums, with normalised observations."""
    env = VecNormalize(VecMonitor(rlopt.make_env("Pendulum-v1", n_envs=2, seed=1, backend="gymnasium")))
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    if agent == "mdpo":
        return rlopt.MDPO("MlpPolicy", env, n_steps=16, n_epochs=1, value_batch_size=16, **small)
    small |= {"buffer_size": 100, "learning_starts": 8, "batch_size": 4, "kl_coef": 0.1}
    return rlopt.OffPolicyMDPO("MlpPolicy", env, **small)


def write_originals(agent: str, parent: Path) -> None:
    """Two checkpoints of one training."""
    model = make_model(agent)
    for steps in (32, 64):
        model.learn(steps - model.num_timesteps, log_interval=None, reset_num_timesteps=False)
        save_checkpoint(model, parent, {"note": "fuzz"})


def examine(agent: str, parent: Path, original: dict[str, Any]) -> str:
    """Reads, restores and loads; returns the outcome; raises or returns "WRONG ..." for what must not be."""
    said: list[str] = []
    checkpoint = latest_checkpoint(parent, said.append)
    newest = max(parent.glob("step-*"))
    if checkpoint.path != newest:
        if checkpoint.step != 32 or not said:
            return "WRONG checkpoint"
        outcome = "refused, the one before used"
    else:
        model = make_model(agent)
        try:
            fresh_episodes = restore_state(model, checkpoint.trees)
            wrong = differences(original, capture_state(model))
            outcome = "loaded unharmed" if not wrong else f"WRONG state: {wrong[:3]}"
            if fresh_episodes is not None and not differences(original["networks"], capture_state(model)["networks"]):
                outcome = "fresh episodes, said so"
        except CheckpointError as error:
            if "\n" in str(error):
                return f"WRONG message: {error}"
            outcome = "refused when restored"
    try:
        loaded = rlopt.load(newest, device="cpu")
        expected = original["networks"]["modules"]["policy"]
        wrong = differences(expected, {k: v.clone() for k, v in loaded.policy.state_dict().items()})
        if wrong:
            return f"WRONG load: {wrong[:3]}"
        action, _ = loaded.predict(np.zeros((2, 3), np.float32), deterministic=True)
        if action.shape != (2, 1):
            return "WRONG action"
    except CheckpointError:
        pass
    return outcome


def fuzz(cases: int, seed: int, folder: Path, progress: Callable[[int], None] = lambda done: None) -> Report:
    """Examines ``cases`` damaged checkpoints below ``folder``."""
    report = Report()
    rng = random.Random(seed)
    (folder / "outside").mkdir(parents=True)
    (folder / "outside" / "secret.txt").write_text("secret")
    originals = {}
    for agent in AGENTS:
        write_originals(agent, folder / f"sound-{agent}")
        model = make_model(agent)
        restore_state(model, latest_checkpoint(folder / f"sound-{agent}", print).trees)
        originals[agent] = capture_state(model)
    for case in range(cases):
        kind = list(DAMAGE)[case % len(DAMAGE)]
        agent = AGENTS[(case // len(DAMAGE)) % len(AGENTS)]
        case_seed = rng.getrandbits(32)
        parent = folder / "damaged"
        shutil.copytree(folder / f"sound-{agent}", parent)
        DAMAGE[kind](max(parent.glob("step-*")), random.Random(case_seed))
        before = inventory(folder)
        try:
            outcome = examine(agent, parent, originals[agent])
        except Exception:
            outcome = f"CRASH: {traceback.format_exc(limit=-4)}"
        if inventory(folder) != before:
            outcome = "WRONG: a file was touched"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if memory > MEMORY_LIMIT_MB:
            report.failures.append(f"{memory} MB of memory at case {case} ({kind}, {agent}, seed {case_seed})")
            break
        report.add(kind, outcome, f"{kind}, {agent}, seed {case_seed}")
        shutil.rmtree(parent)
        progress(case + 1)
    read_checkpoint(max((folder / f"sound-{AGENTS[0]}").glob("step-*")))
    return report


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.exit(main(__doc__, fuzz, "checkpoints", 2000))
