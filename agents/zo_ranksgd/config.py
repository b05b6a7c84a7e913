"""Settings of policy search from rankings. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.engine.choice import needs_engine
from rlopt.errors import ConfigError
from rlopt.settings.fields import AgentConfig, OrPython, Range
from rlopt.settings.optimizer import Widths

STUDY_SETTINGS = (
    "study", "database", "media", "instructions", "clip_fps", "clip_size", "serve", "port", "parallel_rounds",
    "protocol",
)  # fmt: skip
"""Settings that only ``--oracle human`` has."""
EXECUTION_SETTINGS = ("engine", "workers", "address", "gpus_per_job")
"""Settings of where candidates run. They change no result and are not part of a search's identity."""
NOISE_SETTINGS = ("temperature", "closeness", "flip_probability", "lazy_probability", "abstain_probability")
"""Settings that only ``--oracle noisy`` has."""
LINE_SEARCH_SETTINGS = (
    "learning_rate", "line_search_points", "line_search_decay", "accumulate", "best_query_in_line_search",
    "smoothing_schedule", "learning_rate_schedule", "schedule_rounds",
)  # fmt: skip
"""Settings that only ZO-RankSGD has: evolution strategies adapt their step themselves."""
_OBJECT = OrPython(lambda value: value is not None and not isinstance(value, str | int | float))


@dataclass(frozen=True, kw_only=True)
class SearchConfig(AgentConfig):
    """The search, :class:`rlopt.ZORankSGD` (arXiv 2303.03751); the caller defines the unit of the point."""

    m: Annotated[int, Range(ge=2)] = 10
    """Candidates around the current point in a round."""
    k: Annotated[int, Range(ge=1)] = 10
    """Number of best candidates that are ranked, 1 to m; the others are only known to be worse."""
    smoothing: Annotated[float, Range(gt=0)] = 0.1
    """mu, the standard deviation of the candidates in the unit of the point. The ranker must be able to tell them
    apart."""
    learning_rate: Annotated[float, Range(gt=0)] = 1.0
    """eta, the longest step of the line search, in units of the direction. The direction is about as long as a
    perturbation times sqrt(4 / (3 m)), whatever mu or the slope. Without a line search, eta is the step."""
    line_search_points: Annotated[int, Range(ge=0)] = 10
    """Candidates of a line search, including the current point; 0 for none."""
    line_search_decay: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Ratio of one step of a line search to the step before; none makes them span three decades. With a smaller span a
    search stalls earlier, because its smallest step limits how near it comes to an optimum."""
    accumulate: bool = True
    """Whether directions are averaged over rounds in which no step was better than the current point."""
    best_query_in_line_search: bool = False
    """Whether the best candidate of a round also takes part in its line search."""
    subspace: Annotated[int, Range(ge=1), _OBJECT] | None = None
    """Number of dimensions of a random subspace to search; none searches all. In Python also a basis [d, s]."""
    smoothing_schedule: Literal["constant", "linear", "inverse_sqrt"] = "constant"
    """Schedule of mu: constant, linear to a hundredth over schedule_rounds, or with 1 / sqrt of the round."""
    learning_rate_schedule: Literal["constant", "linear", "inverse_sqrt"] = "constant"
    """Schedule of eta, with the same choices as smoothing_schedule."""
    schedule_rounds: Annotated[int, Range(ge=1)] | None = None
    """Number of rounds of a linear schedule."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for a search without candidates or a schedule without length."""
        k, m, points = settings["k"], settings["m"], settings["line_search_points"]
        if k > m:
            raise ConfigError(f"k = {k} is more than m = {m}: rank at most all candidates, k = {m}")
        best_query = settings["best_query_in_line_search"]
        least = 3 if best_query else 2
        if points and points < least:
            raise ConfigError(
                f"line_search_points = {points} leaves no step besides the current point"
                f"{' and the best query' if best_query else ''}: give at least {least}, or 0 for no line search"
            )
        for name in ("smoothing_schedule", "learning_rate_schedule"):
            if settings[name] == "linear" and settings["schedule_rounds"] is None:
                raise ConfigError(f"{name} 'linear' needs schedule_rounds, the number of rounds over which it falls")


@dataclass(frozen=True, kw_only=True)
class ZORankSGDConfig(SearchConfig):
    """ZO-RankSGD: policy search from rankings of candidates only, of their returns or of a person who watches clips
    (arXiv 2303.03751)."""

    run_defaults: ClassVar[dict[str, Any]] = {"normalize_observations": True}

    search: Literal["zo_ranksgd", "cmaes", "one_plus_lambda", "bayes", "auto"] = "zo_ranksgd"
    """Search rule: zo_ranksgd; cmaes, CMA-ES; one_plus_lambda, the elitist (1 + lambda)-ES with m - 1 offspring;
    bayes, Bayesian optimisation from preferences for at most 20 dimensions (pip install 'rlopt[bayes]'); auto, which
    chooses ZO-RankSGD or CMA-ES with mirrored candidates by the number of dimensions and whether answers may err. All
    but zo_ranksgd use m, k, smoothing and subspace alone, and have no line search."""
    policy: Annotated[Literal["LinearPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"], _OBJECT] = "LinearPolicy"
    """Policy whose parameters are searched: linear, or the network of Stable-Baselines3's policy of that name."""
    net_arch: Widths = (64, 64)
    """Width of each hidden layer of a network; LinearPolicy has none."""
    bias: bool = True
    """Whether a linear policy has a bias."""
    oracle: Annotated[Literal["return", "noisy", "human"], _OBJECT] = "return"
    """Source of the rankings: return ranks exactly by the returns; noisy simulates a person; human asks people in a
    browser."""
    smoothing: Annotated[float, Range(gt=0)] = 0.3
    """mu, the standard deviation of the candidates' parameters. .3 suits linear policies, whose episodes then differ
    enough to be ranked; .1 or less suits networks. For people, it must be large enough to show a difference."""
    line_search_points: Annotated[int, Range(ge=0)] = 5
    """Candidates of a line search, including the current policy; 0 for none. With 5, fewer episodes balance a pendulum
    than with 10."""
    line_search_decay: Annotated[float, Range(gt=0, lt=1)] | None = 0.3
    """Ratio of one step of a line search to the step before; none makes them span three decades."""
    episodes_per_candidate: Annotated[int, Range(ge=1, le=4096)] = 1
    """Episodes per candidate, whose mean return is ranked; use 4 or more if goals or starts are random, as in
    Reacher-v5."""
    common_random_numbers: bool = True
    """Whether all candidates of a round run the same episodes."""
    max_envs: Annotated[int, Range(ge=1, le=4096)] = 64
    """Largest number of parallel environments; a round with more episodes runs them in turn, with the same result."""
    engine: Annotated[Literal["local", "ray"], _OBJECT] | None = None
    """Runs the episodes of a round in processes of this machine (local) or on a Ray cluster (ray, Linux only), with the
    same result; none runs them in the process of the run."""
    workers: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Largest number of parallel parts of a round on an engine; none takes what the cores or the cluster allow."""
    address: str | None = None
    """Address of the Ray cluster: host:port, ray://host:port or auto; without one, Ray runs on this machine alone."""
    gpus_per_job: Annotated[float, Range(ge=0, le=64)] = 0.0
    """GPUs for each part on an engine: a share such as .25 for four parts on each GPU, or a whole number."""
    annotators: Annotated[int, Range(ge=1, le=100)] = 1
    """Number of answers to each round; their comparisons are added up."""
    temperature: Annotated[float, Range(ge=0)] = 0.2
    """Scale of the noisy oracle's Gumbel noise (Plackett-Luce), in standard deviations of a round's returns."""
    closeness: Annotated[float, Range(ge=0)] = 0.2
    """Largest difference of returns that the noisy oracle may exchange, in the same unit."""
    flip_probability: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Probability that the noisy oracle exchanges such returns."""
    lazy_probability: Annotated[float, Range(ge=0, le=1)] = 0.2
    """Probability that the noisy oracle ranks fewer than k."""
    abstain_probability: Annotated[float, Range(ge=0, le=1)] = 0.05
    """Probability that the noisy oracle has no opinion."""
    total_episodes: Annotated[int, Range(ge=1)] | None = None
    """Episodes after which the search ends, including those of line searches; never exceeded. None for no limit."""
    total_queries: Annotated[int, Range(ge=1)] | None = None
    """Queries (rounds of clips, including line searches) after which the search ends; none for no limit."""
    study: str | None = None
    """Name of the ranking study, for oracle human; none takes the name of the run folder."""
    database: str | None = None
    """Folder of the study, or postgresql://USER@HOST/NAME; none takes the folder study in the run folder."""
    media: str | None = None
    """Folder of the clips; none takes the folder media in that of the study."""
    instructions: str = ""
    """Instructions that the page shows to raters."""
    clip_fps: Annotated[float, Range(gt=0, le=60)] = 30.0
    """Largest number of frames of a clip per second of simulated time."""
    clip_size: Annotated[int, Range(ge=64, le=1024)] = 320
    """Longer side of the clips in pixels."""
    parallel_rounds: Annotated[int, Range(ge=0, le=500)] | None = None
    """Number of people who rank at once: each has an open round with different clips, and one more round is drawn
    ahead. With 0, a round is drawn only when the previous one has been answered. None takes 1, or the value that the
    study began with."""
    protocol: str | None = None
    """YAML file with the protocol of the study (consent, training, checks, duels, end); none for no such rounds."""
    serve: bool = True
    """Whether the run starts the web server of the study itself and prints its URL."""
    port: Annotated[int, Range(ge=0, lt=65536)] = 0
    """Port of that server; 0 takes a free one."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` also for settings of an oracle, an engine or a search without it."""
        super().check_together(settings)
        first = settings["m"] * settings["episodes_per_candidate"]
        if settings["total_episodes"] is not None and settings["total_episodes"] < first:
            raise ConfigError(
                f"total_episodes = {settings['total_episodes']} is less than the {first} episodes of the first round: "
                "allow more"
            )
        if settings["engine"] == "local" and settings["address"] is not None:
            raise ConfigError("--address needs a Ray cluster: add --engine ray")
        for name in () if settings["engine"] is not None else EXECUTION_SETTINGS:
            if settings[name] != getattr(cls, name):
                raise needs_engine(name)
        for chooser, choices, names in (
            ("oracle", ("noisy",), NOISE_SETTINGS),
            ("oracle", ("human",), STUDY_SETTINGS),
            ("search", ("zo_ranksgd", "auto"), LINE_SEARCH_SETTINGS),
        ):
            for name in () if settings[chooser] in choices else names:
                if settings[name] != getattr(cls, name):
                    flag = name.replace("_", "-")
                    raise ConfigError(f"--{flag} is for --{chooser} {choices[0]}: leave it out, or add that")

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch`."""
        own = super().algorithm_kwargs()
        return {name: value for name, value in own.items() if name != "policy" and name not in STUDY_SETTINGS}
