"""AILBoost and DAC learn from demonstrations alone what the environment rewards."""

import pytest
from transitions import expert_of_random_target

import rlopt

ENV = "rlopt/RandomTarget-v0"


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "steps"), [(rlopt.AILBoost, 4000), (rlopt.DAC, 2000)])
def test_the_policy_comes_near_the_expert_without_rewards(algorithm: type, steps: int) -> None:
    env = rlopt.make_env(ENV, n_envs=1, seed=0, backend="gymnasium")
    model = algorithm(
        "MlpPolicy",
        env,
        expert_of_random_target(20),
        seed=0,
        device="cpu",
        learning_starts=200,
        learner_steps=100 if algorithm is rlopt.AILBoost else 0,
        policy_steps=200,
        discriminator_steps=50,
        discriminator_batch_size=128,
        batch_size=128,
        gamma=0.9,
        policy_kwargs={"net_arch": [64, 64]},
        compile="off",
    )
    untrained = rlopt.evaluate(model, ENV, 20, seed=1).mean
    model.learn(steps)
    trained = rlopt.evaluate(model, ENV, 20, seed=1).mean
    mixture = rlopt.evaluate(model.mixture, ENV, 20, seed=1).mean
    assert untrained < -4 and trained > -2.5 and mixture > untrained + 0.5
