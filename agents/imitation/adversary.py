"""The discriminator with its inputs, its training and its reward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.agents.imitation.discriminator import Discriminator, InputKind, OutputKind, discriminator_inputs, input_size
from rlopt.agents.imitation.discriminator_update import DiscriminatorUpdate
from rlopt.agents.imitation.input_statistics import InputStatistics
from rlopt.console.progress import say
from rlopt.errors import NonFiniteError
from rlopt.optim.compiled_step import Mode
from rlopt.state.networks import capture_networks

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BaseModel

    from rlopt.algorithms.demonstrations import ExpertRows


AT_ONCE = 256
"""Images that are encoded at a time, which bounds the memory that all of an expert's take."""


class ImageFeatures(nn.Module):
    """Features (N, F) float32 of images (N, C, H, W), through a copy of the critics' encoder.

    Only :meth:`follow` renews the copy, before the discriminator is trained. With the encoder that the critics continue
    to train, a reward would change at every gradient step although the discriminator has not changed, and the
    discriminator would get features that it was not trained on. No gradient goes to the encoder from here: a
    discriminator that shapes what it sees tells the expert's few images from all others by details that do not matter.

    :param critic: with the encoder
    """

    def __init__(self, critic: BaseModel) -> None:
        super().__init__()
        encoder: Any = critic.features_extractor
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.size = int(encoder.features_dim)
        self._space, self._normalize = critic.observation_space, critic.normalize_images

    @classmethod
    def of(cls, critic: BaseModel) -> ImageFeatures | None:
        """Those of a critic that sees images through an encoder; None of one that sees numbers or flat images."""
        space = critic.observation_space
        images = isinstance(space, spaces.Box) and is_image_space(space, check_channels=False)
        return cls(critic) if images and type(critic.features_extractor) is not FlattenExtractor else None

    def follow(self, critic: BaseModel) -> None:
        """Sees as ``critic`` does now."""
        encoder: Any = critic.features_extractor
        self.encoder.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The features, see the class."""
        parts = [preprocess_obs(part, self._space, self._normalize) for part in images.split(AT_ONCE)]
        return torch.cat([self.encoder(part) for part in parts])


SAVED = ("adversary.discriminator", "adversary.optimizer", "adversary.statistics")
"""Of a model's ``adversary``, what its files keep."""


@dataclass(frozen=True)
class AdversarySettings:
    """The settings of :class:`rlopt.AILBoost` and GAIL that shape the discriminator; see there."""

    divergence: losses.Divergence
    reward_form: losses.RewardForm
    discriminator_input: InputKind
    discriminator_net_arch: Sequence[int]
    discriminator_output: OutputKind
    output_bound: float
    discriminator_learning_rate: float
    gradient_penalty: float
    normalize_inputs: bool
    absorbing: bool
    discriminator_activation: str = "relu"


class Adversary:
    """A discriminator in training.

    With ``absorbing``, a true end is followed for ever by one absorbing state (DAC, arXiv 1809.02925, section 4.2). The
    discriminator says of it what :func:`~rlopt.agents.imitation.adversarial_losses.absorbing_output` does, so it is
    rewarded with some r_a at every step. Rewards are given relative to that, r - r_a: this takes r_a / (1 - gamma) from
    the value of every state, so it changes no preference, and the absorbing state is worth exactly 0, as an end is to
    any learner. In every sweep a critic that begins at 0 then prefers what it would prefer with a state of its own for
    the end, whereas r_a / (1 - gamma) paid at once is more than all of life as long as the critic does not know what
    follows.

    :param observation_size: numbers in a flat observation
    :param action_size: numbers in an action
    :param features: what it sees in place of images
    """

    def __init__(
        self,
        settings: AdversarySettings,
        observation_size: int,
        action_size: int,
        device: torch.device,
        features: ImageFeatures | None = None,
    ) -> None:
        self.settings, self.features = settings, features
        observation_size = observation_size if features is None else features.size
        self.discriminator = self.network(observation_size, action_size).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.discriminator_learning_rate)
        self.statistics = InputStatistics(observation_size, device)
        # Now, because it moves the parameters, whose place a captured step of the policy remembers.
        self._update = DiscriminatorUpdate(
            self.discriminator,
            self.optimizer,
            divergence=settings.divergence,
            gradient_penalty=settings.gradient_penalty,
        )

    def network(self, observation_size: int, action_size: int) -> nn.Module:
        """The discriminator, untrained."""
        settings = self.settings
        return Discriminator(
            input_size(observation_size, action_size, settings.discriminator_input),
            settings.discriminator_net_arch,
            output=settings.discriminator_output,
            activation=settings.discriminator_activation,
            bound=settings.output_bound,
        )

    def look_again(self, critic: BaseModel, expert: ExpertRows) -> ExpertRows:
        """Before training: sees images as the critics do now. The expert's rows as :meth:`inputs` takes them.

        Of states they are ``expert`` itself. Of images they are the features, computed once for a whole training.
        """
        if self.features is None:
            return expert
        self.features.follow(critic)
        seen = copy.copy(expert)
        seen.observations = seen.next_observations = self.features(expert.observations)
        if self._sees_next:
            seen.next_observations = self.features(expert.next_observations)
        self.compare_with(seen.observations, features_changed=True)
        return seen

    @property
    def _sees_next(self) -> bool:
        return self.settings.discriminator_input == "state_next_state"

    def compare_with(self, observations: Tensor, features_changed: bool = False) -> None:
        """Takes the statistics of an expert's observations (N, ...), if inputs are to be normalised by them."""
        if self.settings.normalize_inputs:
            self.statistics.see_expert(self._flat(observations), features_changed)

    def see_learner(self, observations: Tensor) -> None:
        """Takes the statistics of observations (N, ...) of the learner, before :meth:`train`; likewise."""
        if self.settings.normalize_inputs:
            self.statistics.see_learner(self._flat(observations))

    @property
    def knows_ends(self) -> bool:
        """Whether the expert or the learner has reached a true end. Before, the absorbing state means nothing."""
        return bool(self.statistics.ended)

    def see_ends(self) -> None:
        """There are true ends: rewards are relative to that of the absorbing state from now on."""
        self.statistics.ended.fill_(1)

    def _flat(self, observations: Tensor) -> Tensor:
        """(N, S) of states, images (N, C, H, W), or features of those."""
        if self.features is not None and observations.dim() > 2:
            return self.features(observations)
        return observations.float().flatten(1)

    def _normalized(self, observations: Tensor) -> Tensor:
        rows = self._flat(observations)
        return self.statistics(rows) if self.settings.normalize_inputs else rows

    def inputs(self, batch: Any) -> Tensor:
        """What the discriminator sees of the transitions of ``batch``, (B, I)."""
        observations = self._normalized(batch.observations)
        following = self._normalized(batch.next_observations) if self._sees_next else observations
        return discriminator_inputs(observations, batch.actions, following, self.settings.discriminator_input)

    @torch.no_grad()
    def reward(self, batch: Any) -> Tensor:
        """Rewards (B, 1) of transitions, relative to that of the absorbing state once there are true ends."""
        received = self._rewards(self.discriminator(self.inputs(batch)))
        if not self.settings.absorbing:
            return received
        return received - self.statistics.ended * self.absorbing_reward()

    @torch.no_grad()
    def absorbing_reward(self) -> Tensor:
        """What the absorbing state is rewarded with at every step, (1, 1)."""
        return self._rewards(self.statistics.absorbing_output.reshape(1, 1))

    def _rewards(self, outputs: Tensor) -> Tensor:
        return losses.reward(outputs, divergence=self.settings.divergence, form=self.settings.reward_form)

    def train(
        self, steps: int, mode: Mode, draw: Callable[[], tuple[Any, Tensor, Any]], n_expert: int, num_timesteps: int
    ) -> losses.Info:
        """Takes gradient steps; means of their statistics.

        :param draw: gives for each step a batch of the expert, how many true ends each of its rows stands for (B, 1),
            and a batch of the policy
        :param n_expert: transitions of the expert in all
        :param num_timesteps: environment steps done, for the message
        :raises rlopt.errors.NonFiniteError: the discriminator's loss or gradient is not finite; it stays as it was
        """
        self._update.mode = mode
        collected: list[Tensor] = []
        names: list[str] = []
        for _ in range(steps):
            expert, ends, policy = draw()
            shown, seen = self.inputs(expert), self.inputs(policy)
            info = self._update(
                shown, torch.ones_like(ends), seen, torch.ones_like(policy.dones), torch.rand_like(ends)
            )
            info = dict(info) | {"expert_ends": ends.mean(), "policy_ends": policy.dones.mean()}
            names = list(info)
            collected.append(torch.stack(list(info.values())))
        if not collected:
            return {}
        means = dict(zip(names, torch.stack(collected).mean(dim=0).unbind(), strict=True))
        if float(means.pop("discriminator_finite")) < 1:
            raise NonFiniteError(
                f"the discriminator diverged at step {num_timesteps}: its loss is NaN or infinite; lower "
                "discriminator_learning_rate, bound its output, or raise gradient_penalty"
            )
        expert_ends, policy_ends = (float(means.pop(name)) for name in ("expert_ends", "policy_ends"))
        if self.settings.absorbing and self.knows_ends:
            self._judge_ends(expert_ends, policy_ends, n_expert, means)
            means["absorbing_reward"] = self.absorbing_reward().squeeze()
        return means

    def _judge_ends(self, expert_ends: float, policy_ends: float, n_expert: int, means: losses.Info) -> None:
        """Takes the absorbing state's output from ends a transition.

        Both are taken with half an end more than there was: who had none in so many transitions may yet have one. The
        policy's are those of now or of all trainings, whichever are more.
        """
        settings, half = self.settings, 0.5 / n_expert
        output = losses.absorbing_output(
            expert_ends + half,
            self.statistics.see_ends(policy_ends) + half,
            float(means["expert_output"]),
            float(means["policy_output"]),
            divergence=settings.divergence,
        )
        if settings.discriminator_output != "none":
            output = min(max(output, -settings.output_bound), settings.output_bound)
        self.statistics.absorbing_output.fill_(output)


def with_own_adversary(model: Any, networks: Any) -> Any:
    """The networks of a checkpoint (:mod:`rlopt.state.networks`), with the model's own discriminator in place of one of
    version 0.1, which saw other inputs.
    """
    if "adversary.statistics" in networks["modules"]:
        return networks
    say(
        f"the checkpoint's discriminator is of version 0.1 and saw other inputs: {type(model).__name__} acts as "
        "before, and begins training with a new one"
    )
    own = capture_networks(model)
    return {
        kind: {name: parts.get(name, own[kind][name]) for name in own[kind] if not name.startswith("adversary.")}
        | {name: part for name, part in own[kind].items() if name.startswith("adversary.")}
        for kind, parts in networks.items()
    }
