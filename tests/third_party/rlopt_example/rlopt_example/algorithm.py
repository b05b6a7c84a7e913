"""Reward-weighted regression (Peters and Schaal 2007): the policy imitates its own actions, the better ones more."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from torch import Tensor

from rlopt.algorithms.resumable import Resumable


def weighted_regression_loss(log_prob: Tensor, advantages: Tensor, *, temperature: float) -> Tensor:
    """-mean(w log_prob) with w = exp(A / temperature) / mean(exp(A / temperature)); all (B,), the result a scalar.

    ``advantages`` are standardised first: minus their mean, over their deviation.
    """
    standardised = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    weights = torch.softmax(standardised / temperature, dim=0) * len(advantages)
    return -(weights * log_prob).mean()


class RWR(Resumable, OnPolicyAlgorithm):
    """Reward-weighted regression with the advantages of whole rollouts and a value network as their baseline.

    :param settings: see :class:`rlopt_example.agent.RWRConfig`
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    state_attributes = ("_n_updates",)

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: Any = 1e-3,
        n_steps: int = 256,
        n_epochs: int = 4,
        temperature: float = 1.0,
        gamma: float = 0.99,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        shared = {"n_steps": n_steps, "gamma": gamma, "policy_kwargs": policy_kwargs, "seed": seed}
        self.constructor_settings = {
            "policy": policy,
            "learning_rate": learning_rate,
            "n_epochs": n_epochs,
            "temperature": temperature,
            **shared,
        }
        self.n_epochs, self.temperature = n_epochs, temperature
        super().__init__(
            policy,
            env,
            learning_rate,
            gae_lambda=1.0,
            ent_coef=0.0,
            vf_coef=0.5,
            max_grad_norm=0.5,
            use_sde=False,
            sde_sample_freq=-1,
            device=device,
            verbose=verbose,
            tensorboard_log=tensorboard_log,
            _init_setup_model=_init_setup_model,
            **shared,
        )

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        return self.at_boundary() and super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        """Fits the policy to the weighted actions of the rollout, and the values to its returns."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(None):
                values, log_prob, _ = self.policy.evaluate_actions(batch.observations, batch.actions)
                loss = weighted_regression_loss(log_prob, batch.advantages, temperature=self.temperature)
                value_loss = torch.nn.functional.mse_loss(batch.returns, values.flatten())
                self.policy.optimizer.zero_grad()
                (loss + self.vf_coef * value_loss).backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                self._n_updates += 1
        self.logger.record("train/policy_loss", loss.item())
        self.logger.record("train/value_loss", value_loss.item())

    def learn(self, *args: Any, tb_log_name: str = "RWR", **kwargs: Any) -> RWR:
        return super().learn(*args, tb_log_name=tb_log_name, **kwargs)
