"""The protocol of a study: what raters agree to, which rounds they get besides those of the search, when it ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, quote, urlsplit

from rlopt.errors import ConfigError
from rlopt.settings.fields import AgentConfig, Range, from_mapping
from rlopt.settings.yaml_files import read_yaml

_CODE = "{code}"


@dataclass(frozen=True, kw_only=True)
class StudyProtocol(AgentConfig):
    """Settings of a study's protocol, written in a YAML file (``rlopt rank serve STUDY --protocol FILE``)."""

    consent: str = ""
    """Text that a rater must agree to before the first round; empty for none."""
    training_rounds: Annotated[int, Range(ge=0, le=100)] = 0
    """Number of first rounds of each rater that the search does not use. They repeat earlier rounds, those of an expert
    if there is one. After a round of an expert, the rater sees how far both agree, and the expert's order."""
    repeat_every: Annotated[int, Range(ge=0, le=1000)] = 0
    """Interval between the check rounds of a rater; 0 for none. A check repeats a round of an expert, or of the rater,
    in a new order. From checks the search learns whom to trust."""
    duel_every: Annotated[int, Range(ge=0, le=1000)] = 0
    """Interval between the duels of a rater, rounds with the first and the current policy, unlabelled; 0 for none."""
    rounds_per_rater: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Rounds after which a rater is done, training and checks included; none for no end."""
    minutes_per_rater: Annotated[float, Range(gt=0, le=10_000)] | None = None
    """Minutes of ranking after which a rater is done; none for no end."""
    study_hours: Annotated[float, Range(gt=0, le=100_000)] | None = None
    """Hours after its creation at which the study gives out no more rounds and the search ends; none for no end."""
    completion_code: str = ""
    """Code shown to a rater who is done, for the platform that sent the rater."""
    completion_url: str = ""
    """Address that a rater's browser opens when the rater is done: https://... or http://...; {code} in its path or
    query stands for the completion code."""

    def __post_init__(self) -> None:
        if self.completion_url:
            _check_address(self.completion_url)
            if _CODE in self.completion_url and not self.completion_code:
                raise ConfigError(f"completion_url has {_CODE}: give completion_code too")
        if len(self.completion_code) > 200 or not self.completion_code.isprintable():
            raise ConfigError("completion_code has at most 200 printable characters")
        if len(self.consent) > 20_000:
            raise ConfigError("consent has at most 20,000 characters")

    @property
    def ends(self) -> bool:
        """Whether a rater is done at some time."""
        return self.rounds_per_rater is not None or self.minutes_per_rater is not None

    @property
    def completion(self) -> dict[str, str]:
        """``code`` and ``url`` for a rater who is done, each empty where there is none."""
        code = self.completion_code
        return {"code": code, "url": self.completion_url.replace(_CODE, quote(code, safe=""))}


def web_address(url: str) -> SplitResult | None:
    """The parts of an http or https address; None of anything else."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a malformed host or port
        return None
    return parts if good and url.isprintable() and " " not in url else None


def _check_address(url: str) -> None:
    parts = web_address(url)
    if parts is None or len(url) > 2000:
        raise ConfigError(f"completion_url {url[:200]!r} is not a web address: begin it with https://, without spaces")
    if set("{}") & set(parts.netloc + url.replace(_CODE, "")):
        raise ConfigError(f"completion_url {url!r}: only {_CODE} stands for something, and after the host's name")


def read_protocol(path: str | Path | None) -> StudyProtocol:
    """The protocol of a YAML file; without one, no extra rounds and no end.

    :raises ConfigError: it cannot be read, or a setting is unknown or out of range
    """
    if path is None:
        return StudyProtocol()
    content: Any = read_yaml(Path(path), f"protocol {path}")
    if not isinstance(content, dict):
        raise ConfigError(f"protocol {path} holds no settings: write lines such as repeat_every: 5")
    return from_mapping(StudyProtocol, content, f"protocol {path}")
