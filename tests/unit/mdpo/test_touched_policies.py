"""On-policy updates of networks that a user has changed, against a plain loop of the formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reach import vec_env
from stable_baselines3.common.utils import update_learning_rate
from torch import nn
from torch.nn.utils import parametrizations
from user_networks import DRAWING, Extractor, compiled, nothing

from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.algorithms.rollout import flat


class Plain(MDPO):
    """The update as it is written in the paper, with Stable-Baselines3's distributions and torch's own KL."""

    def train(self) -> None:
        policy: Any = getattr(self.policy, "_orig_mod", self.policy)
        policy.set_training_mode(False)
        for optimizer in (policy.optimizer, self.value_optimizer):
            update_learning_rate(optimizer, self.lr_schedule(1.0))  # of every group, as PPO does
        observations, actions, advantages, returns = (
            flat(getattr(self.rollout_buffer, name), self.device)
            for name in ("observations", "actions", "advantages", "returns")
        )
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        with torch.no_grad():
            old = policy.get_distribution(observations).distribution
            old_log_prob = old.log_prob(actions).sum(dim=1)
            old = torch.distributions.Normal(old.mean.clone(), old.stddev.clone())
        policy.set_training_mode(True)
        for _ in range(self.n_epochs):
            new = policy.get_distribution(observations).distribution
            ratio = (new.log_prob(actions).sum(dim=1) - old_log_prob).exp()
            kl = torch.distributions.kl_divergence(new, old).sum(dim=1).mean()
            self.descend(self.policy.optimizer, -(ratio * advantages).mean() + kl / self.current_step_size())
        if policy.share_features_extractor:
            policy.features_extractor.train(False)
        for _ in range(self.n_value_epochs):
            values = policy.predict_values(observations).flatten()
            self.descend(self.value_optimizer, (values - returns).square().mean())

    def descend(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in self.policy.parameters():
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], self.max_grad_norm)
        optimizer.step()


def frozen(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[0].requires_grad_(False)
    model.policy.value_net.bias.requires_grad_(False)


def hooks(model: Any) -> None:
    policy = model.policy
    policy.pi_features_extractor.register_forward_hook(lambda module, given, found: 2 * found)
    policy.mlp_extractor.policy_net[2].register_forward_hook(lambda module, given, found: 0.5 * found)
    policy.value_net.register_forward_pre_hook(lambda module, given: (given[0] + 1.0,))


def gradient_hooks(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[0].weight.register_hook(lambda gradient: 0.1 * gradient)

    def sign(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad = 0.01 * parameter.grad.sign()

    model.policy.value_net.weight.register_post_accumulate_grad_hook(sign)


def groups(model: Any) -> None:
    for name in ("policy_parameters", "value_parameters"):
        parameters = getattr(model, name)
        made = [{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 0.1, "betas": (0.5, 0.9)}]
        optimizer = torch.optim.Adam(made, lr=1e-3)
        if name == "policy_parameters":
            model.policy.optimizer = optimizer
        else:
            model.value_optimizer = optimizer
    parameters[1].requires_grad_(False)  # in a group that is not the first


def another_optimizer(model: Any) -> None:
    model.policy.optimizer = torch.optim.SGD(model.policy_parameters, lr=1e-3, momentum=0.9)


def tied(model: Any) -> None:
    body = model.policy.mlp_extractor
    body.value_net[2].weight = body.policy_net[2].weight


def tied_within(model: Any) -> None:
    body = model.policy.mlp_extractor
    body.policy_net[2].weight = body.policy_net[0].weight
    model._make_optimizers()


def normed(make_norm: Callable[[nn.Module], nn.Module]) -> Callable[[Any], None]:
    def touch(model: Any) -> None:
        make_norm(model.policy.mlp_extractor.policy_net[0])
        make_norm(model.policy.value_net)
        model._make_optimizers()

    return touch


TOUCHES: dict[str, tuple[Callable[[Any], None], dict[str, Any], str | None]] = {
    "nothing": (nothing, {}, None),
    "frozen layers": (frozen, {}, None),
    "forward hooks": (hooks, {}, "a module of policy has hooks"),
    "gradient hooks": (gradient_hooks, {}, "a parameter of policy has hooks"),
    "parameter groups": (groups, {}, "the optimizer of policy has several parameter groups"),
    "another optimizer": (another_optimizer, {}, "the optimizer SGD of policy is not plain Adam"),
    "weights tied between policy and critic": (tied, {}, "layers of policy share a weight"),
    "weights tied within the policy": (tied_within, {}, "layers of policy share a weight"),
    "weight norm": (normed(parametrizations.weight_norm), {}, None),
    "spectral norm": (normed(parametrizations.spectral_norm), {}, "_SpectralNorm, which draws"),
    "torch.compile": (compiled, {}, None),
    **{
        f"{name}, {'shared' if share else 'apart'}": (
            nothing,
            {
                "features_extractor_class": Extractor,
                "features_extractor_kwargs": {"inner": inner},
                "share_features_extractor": share,
            },
            reason,
        )
        for name, (inner, reason) in DRAWING.items()
        for share in (False, True)
    },
}


def touched(cls: type[MDPO], name: str) -> Any:
    touch, more, _ = TOUCHES[name]
    model = cls(
        "MlpPolicy",
        vec_env(2),
        n_steps=32,
        n_epochs=3,
        n_value_epochs=3,
        value_batch_size=None,
        batch_size=None,
        target_kl=None,
        normalize_value=False,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        compile="off",
        policy_kwargs={"net_arch": [2, 2] if name == "weights tied within the policy" else [8, 8], **more},
    )
    touch(model)
    return model


def assert_as_plain(model: Any, name: str) -> None:
    wanted = touched(Plain, name).learn(128)
    policy, other = (getattr(each.policy, "_orig_mod", each.policy).state_dict() for each in (model, wanted))
    assert policy.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(policy[key], value, rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")


@pytest.mark.parametrize("name", TOUCHES)
def test_touched_policies_learn_as_the_formulas_say(name: str) -> None:
    assert_as_plain(touched(MDPO, name).learn(128), name)


@pytest.mark.parametrize("name", TOUCHES)
def test_a_step_as_one_function_is_that_step_or_says_why_not(name: str, capsys: Any) -> None:
    model, reason = touched(MDPO, name), TOUCHES[name][2]
    model._update_mode = lambda: "eager"
    model.learn(128)
    said = [line for line in capsys.readouterr().out.splitlines() if "not compiled" in line]
    assert (len(said) == 1 and reason in said[0]) if reason else not said
    assert bool(model.prepared) is (reason is None)
    assert_as_plain(model, name)
