"""Settings of policy search from rankings. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rlopt.engine.choice import needs_engine
from rlopt.errors import ConfigError
from rlopt.settings.fields import AgentConfig, OrPython, Range
from rlopt.settings.optimizer import Widths

STUDY_SETTINGS = ("study", "database", "media", "instructions", "clip_fps", "clip_size", "serve", "port")
"""For ``--oracle human`` alone."""
EXECUTION_SETTINGS = ("engine", "workers", "address", "gpus_per_job")
"""Where candidates are played, which changes no result and is no part of what a search is."""
NOISE_SETTINGS = ("temperature", "closeness", "flip_probability", "lazy_probability", "abstain_probability")
"""For ``--oracle noisy`` alone."""
_OBJECT = OrPython(lambda value: value is not None and not isinstance(value, str | int | float))


@dataclass(frozen=True, kw_only=True)
class SearchConfig(AgentConfig):
    """The search itself, :class:`rlopt.ZORankSGD` (arXiv 2303.03751), of a point whose unit is the caller's."""

    m: Annotated[int, Range(ge=2)] = 10
    """Candidates around the present point in a round."""
    k: Annotated[int, Range(ge=1)] = 10
    """How many best of them are ranked, 1 to m; the others are only worse than those."""
    smoothing: Annotated[float, Range(gt=0)] = 0.1
    """mu, the standard deviation of the candidates in the unit of the point; so large that they look different to
    whoever ranks them."""
    learning_rate: Annotated[float, Range(gt=0)] = 1.0
    """eta, the longest step of the line search in units of the direction, which is about as long as a perturbation
    times sqrt(4 / (3 m)), whatever mu or the slope. Without a line search, the step."""
    line_search_points: Annotated[int, Range(ge=0)] = 10
    """Candidates of a line search, the present point among them; 0 for none."""
    line_search_decay: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Of one step of a line search to the next; none makes them span three decades. With fewer, a search stalls
    earlier: it comes no nearer to an optimum than its smallest step allows."""
    accumulate: bool = True
    """Whether directions are averaged over rounds in which no step was better than the present point."""
    best_query_in_line_search: bool = False
    """Whether the best candidate of a round is one of its line search, too."""
    subspace: Annotated[int, Range(ge=1), _OBJECT] | None = None
    """Dimensions of a random subspace that is searched instead of all; none for all. In Python also a basis [d, s]."""
    smoothing_schedule: Literal["constant", "linear", "inverse_sqrt"] = "constant"
    """How mu falls: linear to a hundredth over schedule_rounds, or with the square root of the round."""
    learning_rate_schedule: Literal["constant", "linear", "inverse_sqrt"] = "constant"
    """How eta falls."""
    schedule_rounds: Annotated[int, Range(ge=1)] | None = None
    """Rounds of a linear schedule."""

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
                f"line_search_points = {points} leaves no step beside the current point"
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

    search: Literal["zo_ranksgd", "cmaes", "one_plus_lambda", "auto"] = "zo_ranksgd"
    """What follows the rankings: zo_ranksgd; cmaes, CMA-ES; one_plus_lambda, the elitist (1 + lambda)-ES of m - 1
    offspring; auto, which fits the number of dimensions and the noise of the answers. Evolution strategies take m, k,
    smoothing and subspace, and have no line search."""
    policy: Annotated[Literal["LinearPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"], _OBJECT] = "LinearPolicy"
    """What is searched: a linear policy, or a network of Stable-Baselines3's policy of that name."""
    net_arch: Widths = (64, 64)
    """Widths of the hidden layers of a network; of no use for LinearPolicy."""
    bias: bool = True
    """Whether a linear policy has a constant part."""
    oracle: Annotated[Literal["return", "noisy", "human"], _OBJECT] = "return"
    """Who ranks: return, exactly by the returns; noisy, a simulated person; human, people in a browser."""
    smoothing: Annotated[float, Range(gt=0)] = 0.3
    """mu, the standard deviation of the candidates' parameters. .3 is for linear policies, whose episodes then
    differ enough to be ranked; .1 or less for networks. People need it so large that they see a difference."""
    line_search_points: Annotated[int, Range(ge=0)] = 5
    """Candidates of a line search, the present policy among them; 0 for none. Episodes are dear: 5 balance a pendulum
    in fewer of them than 10."""
    line_search_decay: Annotated[float, Range(gt=0, lt=1)] | None = 0.3
    """Of one step of a line search to the next; none makes them span three decades."""
    episodes_per_candidate: Annotated[int, Range(ge=1, le=4096)] = 1
    """Episodes whose mean return is ranked; 4 or more where goals or starts are random, as in Reacher-v5."""
    common_random_numbers: bool = True
    """Whether all candidates of a round play the same episodes."""
    max_envs: Annotated[int, Range(ge=1, le=4096)] = 64
    """Environments side by side at most; a round of more episodes takes turns, with the same result."""
    engine: Annotated[Literal["local", "ray"], _OBJECT] | None = None
    """Spreads the episodes of a round over processes of this machine (local) or a Ray cluster (ray, Linux only), with
    the same result; none plays them in the process of the run."""
    workers: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Of an engine: parts of a round at once at most; none takes what the cores or the cluster allow."""
    address: str | None = None
    """Of the Ray cluster: host:port, ray://host:port or auto; without one Ray runs on this machine alone."""
    gpus_per_job: Annotated[float, Range(ge=0, le=64)] = 0.0
    """Of an engine: share of a GPU for each part, such as .25 for four on each, or a whole number."""
    annotators: Annotated[int, Range(ge=1, le=100)] = 1
    """Answers to each round; their comparisons are added up."""
    temperature: Annotated[float, Range(ge=0)] = 0.2
    """Of a noisy oracle: scale of its Gumbel noise (Plackett-Luce), in standard deviations of a round's returns."""
    closeness: Annotated[float, Range(ge=0)] = 0.2
    """Of a noisy oracle: returns this close, in the same unit, may be exchanged."""
    flip_probability: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Of a noisy oracle: probability of that exchange."""
    lazy_probability: Annotated[float, Range(ge=0, le=1)] = 0.2
    """Of a noisy oracle: probability that it ranks fewer than k."""
    abstain_probability: Annotated[float, Range(ge=0, le=1)] = 0.05
    """Of a noisy oracle: probability that it has no opinion."""
    total_episodes: Annotated[int, Range(ge=1)] | None = None
    """Episodes after which the search ends, those of line searches included and never exceeded; none for no limit."""
    total_queries: Annotated[int, Range(ge=1)] | None = None
    """Queries (rounds of clips, line searches included) after which the search ends; none for no limit."""
    study: str | None = None
    """Of a human oracle: name of the ranking study; none takes the name of the run folder."""
    database: str | None = None
    """Of a human oracle: folder of the study, or postgresql://USER@HOST/NAME; none takes study in the run folder."""
    media: str | None = None
    """Of a human oracle: folder of the clips; none takes media in the folder of the study."""
    instructions: str = ""
    """Of a human oracle: what the people who rank are told."""
    clip_fps: Annotated[float, Range(gt=0, le=60)] = 30.0
    """Of a human oracle: frames shown per second of simulated time, at most."""
    clip_size: Annotated[int, Range(ge=64, le=1024)] = 320
    """Of a human oracle: longer side of the clips in pixels."""
    serve: bool = True
    """Of a human oracle: whether the run starts the web server itself, and prints its URL."""
    port: Annotated[int, Range(ge=0, lt=65536)] = 0
    """Of a human oracle: port of that server; 0 takes a free one."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` also for settings of an oracle or an engine without it."""
        super().check_together(settings)
        first = settings["m"] * settings["episodes_per_candidate"]
        if settings["total_episodes"] is not None and settings["total_episodes"] < first:
            raise ConfigError(
                f"total_episodes = {settings['total_episodes']} is less than the {first} episodes of the first round: "
                "allow more"
            )
        if settings["engine"] == "local" and settings["address"] is not None:
            raise ConfigError("--address is of a Ray cluster: add --engine ray")
        for name in () if settings["engine"] is not None else EXECUTION_SETTINGS:
            if settings[name] != getattr(cls, name):
                raise needs_engine(name)
        for oracle, names in (("noisy", NOISE_SETTINGS), ("human", STUDY_SETTINGS)):
            for name in () if settings["oracle"] == oracle else names:
                if settings[name] != getattr(cls, name):
                    flag = name.replace("_", "-")
                    raise ConfigError(f"--{flag} is for --oracle {oracle}: leave it out, or add that")

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of :class:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch`."""
        own = super().algorithm_kwargs()
        return {name: value for name, value in own.items() if name != "policy" and name not in STUDY_SETTINGS}
