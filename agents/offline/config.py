"""Settings of the offline learners. Imports no torch.

CORL is the implementation whose published scores people compare with; values that name it are those of its configs.
``--total-timesteps`` counts gradient steps; ``--normalize-observations`` and ``--normalize-rewards`` are settings of
the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.errors import ConfigError
from rlopt.settings.fields import OrPython, Range
from rlopt.settings.optimizer import Activation, CompiledStepConfig, LearningRate, Widths

_DATA = ("dataset", "n_demos", "augment", "guide", "n_augmented")
_POLICY = ("net_arch", "activation_fn", "critic_layer_norm", "actor_layer_norm")


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(CompiledStepConfig):
    """Settings of every offline learner."""

    other_names: ClassVar[Mapping[str, str]] = {"demos": "dataset"}

    dataset: Annotated[str, OrPython(lambda value: not isinstance(value, str | float))] = ""
    """Data set to learn from: a folder that rlopt wrote, an HDF5 file, a D4RL name, minari:ID, or demonstrations:
    an npz or parquet file or a shipped set such as dmc/walker-walk. Required; --demos means the same."""
    augment: Literal["none", "guda", "learned-dynamics"] = "none"
    """Method that adds augmented transitions to the recorded ones before training, drawn from the run's seed; rlopt
    data augment has more settings."""
    guide: str = "default"
    """Guide of the augmented transitions: the domain's default, another one by name, or random."""
    n_augmented: Annotated[int, Range(ge=1)] = 1_000_000
    """Number of augmented transitions, added to the recorded ones."""
    learning_rate: LearningRate = 3e-4
    """Step size of all networks, or of the actor if critic_learning_rate is given. CORL: 3e-4."""
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions per gradient step. CORL: 256."""
    reward_scale: float = 1.0
    """Factor on rewards; not 0."""
    reward_shift: float = 0.0
    """Constant added to rewards after scaling; -1 on AntMaze (CORL)."""
    validation_fraction: Annotated[float, Range(ge=0, le=0.9)] = 0.0
    """Share of the episodes held out from training, on which the logged validation losses are computed."""
    net_arch: Widths = (256, 256)
    """Width of each hidden layer of every network. CORL: 256 256."""
    activation_fn: Activation = "relu"
    """Activation of the hidden layers."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for rewards without a scale or an augmentation that cannot be."""
        super().check_together(settings)
        if settings["reward_scale"] == 0:
            raise ConfigError("reward_scale is 0: every reward would be the same")
        for name in ("guide", "n_augmented"):
            if settings["augment"] == "none" and settings[name] != getattr(cls, name):
                raise ConfigError(f"{name} has no effect without augmentation: give augment guda, or leave it out")
        if settings["augment"] != "none" and settings["validation_fraction"] > 0:
            raise ConfigError(
                "augmented transitions would come from those that are held out: give validation_fraction 0 or "
                "augment none"
            )

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the learner's class, without the data set; names in place of classes."""
        own = super().algorithm_kwargs()
        policy = {name: own.pop(name) for name in _POLICY if name in own}
        for name in _DATA:
            own.pop(name, None)
        return self.with_optimizer(own | {"policy_kwargs": policy | {"net_arch": list(self.net_arch)}})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Arguments that only the learners' classes have, most of them for fine-tuning in an environment; they are not
    flags."""

    normalize_observations: bool = False
    """Whether observations are shifted and scaled by their mean and deviation in the data set; the statistics are saved
    with the policy. True for all learners except ReBRAC."""
    normalize_rewards: bool = False
    """Whether rewards are scaled to a range of 1000 between the worst and the best episode of the data set. IQL's
    released code: yes, on MuJoCo."""
    buffer_size: Annotated[int, Range(ge=1)] = 1_000_000
    """Largest number of transitions from fine-tuning that are kept, besides the data set."""
    train_freq: Annotated[int, Range(ge=1)] = 1
    """Steps of every environment between two updates in fine-tuning."""
    gradient_steps: Annotated[int, Range(ge=-1)] = 1
    """Gradient steps per update in fine-tuning; -1 takes as many as steps were collected."""
    exploration_noise: Annotated[float, Range(ge=0)] = 0.1
    """Standard deviation of the Gaussian noise on a deterministic actor in fine-tuning, in units of half the action
    range."""


@dataclass(frozen=True, kw_only=True)
class CriticConfig(OfflineConfig):
    """Settings of every learner with critics."""

    critic_learning_rate: LearningRate | None = None
    """The step size of the critics (and of the value network); default is learning_rate."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount factor."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Polyak coefficient of the target networks' updates. CORL: 5e-3."""
    critic_layer_norm: bool = False
    """Whether the critics have layer normalisation, which keeps Q from growing outside the data (ReBRAC, arXiv
    2305.09836, section 3; RLPD, arXiv 2302.02948, section 4.2)."""


@dataclass(frozen=True, kw_only=True)
class BCConfig(OfflineConfig):
    """Behaviour cloning."""

    stochastic: bool = False
    """Whether the actor is a Gaussian fitted by likelihood instead of a function fitted by squared error. Discrete
    actions are always fitted by likelihood."""
    best_fraction: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Share of the episodes to clone, those with the highest returns. CORL's BC-10%: 0.1."""
    n_demos: Annotated[int, Range(ge=1)] | None = None
    """Number of episodes to clone, the first of the data set, as with the same flag of the imitation learners."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(CriticConfig):
    """TD3 with behaviour cloning (TD3+BC, arXiv 2106.06860)."""

    alpha: Annotated[float, Range(ge=0)] = 2.5
    """Weight of Q, scaled to mean size 1, against cloning. Paper, table 3: 2.5."""
    policy_delay: Annotated[int, Range(ge=1)] = 2
    """Gradient steps of the critics for each one of the actor and the target networks. Paper: 2."""
    target_policy_noise: Annotated[float, Range(ge=0)] = 0.2
    """Deviation of the noise on target actions, in units of half the action range. Paper: 0.2."""
    target_noise_clip: Annotated[float, Range(ge=0)] = 0.5
    """Largest size of that noise. Paper: 0.5."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}


@dataclass(frozen=True, kw_only=True)
class ReBRACConfig(CriticConfig):
    """Behaviour-regularised actor-critic revisited (ReBRAC, arXiv 2305.09836)."""

    learning_rate: LearningRate = 1e-3
    """The step size. Released configs: 1e-3 on MuJoCo, 3e-4 elsewhere."""
    batch_size: Annotated[int, Range(ge=1)] = 1024
    """Transitions of a gradient step. Released configs: 1024 on MuJoCo, 256 elsewhere."""
    net_arch: Widths = (256, 256, 256)
    """Width of each hidden layer of every network. Paper: 256 256 256."""
    actor_bc_coef: Annotated[float, Range(ge=0)] = 0.01
    """beta_1, weight of |pi(s) - a|^2 in the actor's loss. Chosen per task among 1e-3 to 1 (paper, appendix)."""
    critic_bc_coef: Annotated[float, Range(ge=0)] = 0.01
    """beta_2, weight of |pi(s') - a'|^2 in the critics' target. Chosen per task among 0 to 0.5 (paper, appendix)."""
    normalize_q: bool = True
    """Whether Q is scaled to mean size 1 in the actor's loss. Released code: yes."""
    policy_delay: Annotated[int, Range(ge=1)] = 2
    """Gradient steps of the critics for each one of the actor and the target networks. Paper: 2."""
    target_policy_noise: Annotated[float, Range(ge=0)] = 0.2
    """Deviation of the noise on target actions, in units of half the action range. Paper: 0.2."""
    target_noise_clip: Annotated[float, Range(ge=0)] = 0.5
    """Largest size of that noise. Paper: 0.5."""
    critic_layer_norm: bool = True
    """Whether the critics have layer normalisation. Paper: yes."""
    actor_layer_norm: bool = False
    """Whether the actor has layer normalisation. Paper: no."""


@dataclass(frozen=True, kw_only=True)
class AWACConfig(CriticConfig):
    """Advantage-weighted actor-critic (AWAC, arXiv 2006.09359)."""

    awac_lambda: Annotated[float, Range(gt=0)] = 1.0
    """Temperature lambda of the weights exp(A / lambda), in units of return. CORL: 0.33 on MuJoCo, 0.1 on mazes."""
    largest_weight: Annotated[float, Range(gt=0)] = 100.0
    """Largest weight. CORL: 100."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}


@dataclass(frozen=True, kw_only=True)
class IQLConfig(CriticConfig):
    """Implicit Q-learning (IQL, arXiv 2110.06169)."""

    beta: Annotated[float, Range(ge=0)] = 3.0
    """Inverse temperature of the weights exp(beta A). Paper: 3 on MuJoCo, 10 on AntMaze."""
    expectile: Annotated[float, Range(gt=0, le=0.9999)] = 0.7
    """tau of the value's expectile regression; float32 is too coarse above 0.9999. Paper: 0.7 on MuJoCo, 0.9 on
    AntMaze."""
    largest_weight: Annotated[float, Range(gt=0)] = 100.0
    """Largest weight. Released code: 100."""
    deterministic_actor: bool = False
    """Whether the actor is a function fitted by weighted squared error instead of a Gaussian."""
    cosine_decay: bool = True
    """Whether the actor's step size falls to zero along a cosine over the run. Released code: yes."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}


@dataclass(frozen=True, kw_only=True)
class CQLConfig(CriticConfig):
    """Conservative Q-learning (CQL, arXiv 2006.04779)."""

    learning_rate: LearningRate = 3e-5
    """The step size of the actor and of the temperature. Paper, appendix F and CORL: 3e-5."""
    critic_learning_rate: LearningRate | None = 3e-4
    """The step size of the critics. Paper, appendix F and CORL: 3e-4."""
    net_arch: Widths = (256, 256, 256)
    """Width of each hidden layer of every network. CORL: 256 256 256."""
    cql_alpha: Annotated[float, Range(ge=0)] = 10.0
    """Weight of the conservative term in the critics' loss. CORL: 10."""
    cql_temperature: Annotated[float, Range(gt=0)] = 1.0
    """Temperature of the conservative term's soft maximum. CORL: 1."""
    n_actions: Annotated[int, Range(ge=1, le=1000)] = 10
    """Number of actions sampled from each of three distributions: uniform, the policy at s, and the policy at s'. Paper
    and CORL: 10."""
    lagrange_gap: float | None = None
    """tau, the target of the conservative gap: a learned multiplier of cql_alpha keeps the gap near it; none fixes the
    weight. Paper: 5 or 10; CORL: 5 on mazes."""
    entropy_in_target: bool = False
    """Whether the critics' target includes SAC's entropy term. CORL: no."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}
