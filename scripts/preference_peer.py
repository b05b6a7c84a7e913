"""One run of the library imitation's preference comparison; called by ``reproduce_preferences.py``.

Needs imitation, not rlopt. The components and their settings are those of imitation's own example, with
Stable-Baselines3's SAC as the agent and a teacher who does not err. Prints the result as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains on the settings of ``reproduce_preferences.py`` and evaluates the last policy."""
    import imitation
    import numpy as np
    from imitation.algorithms import preference_comparisons as comparisons
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util.networks import RunningNorm
    from imitation.util.util import make_vec_env
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy

    seed = settings["seed"]
    rng = np.random.default_rng(seed)
    env = make_vec_env(settings["env"], rng=rng, n_envs=1)
    reward = BasicRewardNet(env.observation_space, env.action_space, normalize_input_layer=RunningNorm)
    agent = SAC("MlpPolicy", env, seed=seed, device="cpu")
    main_loop = comparisons.PreferenceComparisons(
        comparisons.AgentTrainer(agent, reward, env, rng=rng, exploration_frac=0.05),
        reward,
        num_iterations=settings["rounds"],
        fragmenter=comparisons.RandomFragmenter(rng=rng, warning_threshold=0),
        preference_gatherer=comparisons.SyntheticGatherer(temperature=0, rng=rng),
        reward_trainer=comparisons.BasicRewardTrainer(
            preference_model=comparisons.PreferenceModel(reward),
            loss=comparisons.CrossEntropyRewardLoss(),
            epochs=3,
            rng=rng,
        ),
        fragment_length=settings["fragment"],
        transition_oversampling=1,
        initial_comparison_frac=0.1,
        initial_epoch_multiplier=4,
        allow_variable_horizon=True,
        query_schedule="hyperbolic",
    )
    main_loop.train(total_timesteps=settings["steps"], total_comparisons=settings["labels"])
    test = make_vec_env(settings["env"], rng=np.random.default_rng(seed + 100_000), n_envs=1)
    mean, _ = evaluate_policy(agent.policy, test, n_eval_episodes=settings["episodes"])
    return {"mean_return": float(mean), "version": imitation.__version__}


if __name__ == "__main__":
    print(json.dumps(trained(json.loads(sys.argv[1]))))
