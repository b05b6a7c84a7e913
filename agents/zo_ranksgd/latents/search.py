"""Search of a generator's latent by rankings of its images, on any deterministic ``decode``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlopt.agents.zo_ranksgd.config import LINE_SEARCH_SETTINGS
from rlopt.agents.zo_ranksgd.latents.best_of_n import BestOfN
from rlopt.agents.zo_ranksgd.latents.geometry import Array, Decode, Decoder, LatentSpace
from rlopt.agents.zo_ranksgd.methods import RankedSearch, make_search
from rlopt.errors import CheckpointError, ConfigError
from rlopt.feedback.ranking import Ranking

Images = NDArray[Any]
Score = Callable[[Images], Any]
"""Images ``[n, ...]`` to ``n`` numbers, the higher the better."""
ImageOracle = Callable[[Images, int], Ranking]
"""Called as ``oracle(images, k)``: who ranks the ``k`` best of ``images [m, ...]``."""


class Noise(Protocol):
    """The oracles of :mod:`rlopt.feedback.oracles`, whose returns are here the images' scores."""

    def rank(self, returns: Array, k: int, rng: np.random.Generator) -> Ranking:
        """The ``k`` best of the scores ``[m]``, drawn with ``rng`` where the oracle errs."""
        ...


class ScoreOracle:
    """A simulated person who prefers images of a higher score.

    :param score: see :data:`Score`
    :param noise: who errs, of :mod:`rlopt.feedback.oracles`; None for an exact ranking
    """

    def __init__(self, score: Score, noise: Noise | None = None, seed: int = 0) -> None:
        self._score = score
        self._noise = noise
        self._rng = np.random.default_rng(seed)

    def __call__(self, images: Images, k: int) -> Ranking:
        scores = np.asarray(self._score(images), dtype=np.float64)
        if self._noise is None:
            return Ranking.from_values(scores, k, maximize=True)
        return self._noise.rank(scores, k, self._rng)


@dataclass(frozen=True)
class LatentQuery:
    """What is to be ranked: the ``k`` best of ``images``."""

    kind: str
    """"gradient" (variations of the current latent) or "line_search" (along the direction that they gave)."""
    iteration: int
    latents: Array
    """``[m, *shape]``."""
    images: Images
    """``[m, ...]``, as ``decode`` gave them."""
    k: int
    current: int | None
    """Which of them is the current latent, None if none is."""


@dataclass(frozen=True)
class LatentResult:
    """The result of a search, and the best of as many random latents."""

    rounds: int
    images: int
    """Shown in the search; N of the best of N, but 0 where that was not asked for."""
    names: tuple[str, ...]
    """"start", "search", and "best of N" unless it was not asked for."""
    latents: Array
    """``[names, *shape]``."""
    pictures: Images
    """Their images ``[names, ...]``."""
    final: Ranking
    """What the same oracle says of these images."""

    def scores(self, score: Score) -> dict[str, float]:
        """The score of each image, by name."""
        return dict(zip(self.names, map(float, score(self.pictures)), strict=True))

    def __str__(self) -> str:
        tiers = " > ".join(" = ".join(self.names[index] for index in tier) for tier in self.final.tiers)
        rest = ", ".join(self.names[index] for index in self.final.unranked)
        said = "no opinion" if self.final.abstain else f"{tiers} > {rest}" if rest else tiers
        rival = "" if "best of N" in self.names else "; no best of N beside it"
        return f"latent search, {self.rounds} rounds, N = {self.images} images{rival}: the oracle says {said}"


class LatentSearch:
    """Finds the latent whose image an oracle likes best, from rankings alone (arXiv 2303.03751).

    Queries alternate between ``m`` variations of the current latent, of which the ``k`` best are ranked, and
    ``line_search_points`` images along the resulting direction, of which the best is picked. A *round* is one query.
    Other inputs of ``decode`` (prompt, guidance) stay fixed, and so do the weights.

    In a full space of ``d`` dimensions, ``m`` answers say little (the direction's cosine with the gradient is about
    ``sqrt(.75 m / d)``), so in the 16384 dimensions of Stable Diffusion 1.x only details change; a ``subspace`` of 16
    to 64 dimensions changes more. ``smoothing`` is the size of a variation relative to the latent's norm; it should be
    large enough that the images look different.

    :param decode: maps latents ``[n, *shape]`` to ``n`` images, each latent independently; this is checked at once
    :param start: the first latent, or the latent's shape for one drawn with ``seed``
    :param subspace: number of directions of the search ``z0 + s B a`` (:class:`.geometry.LatentSpace`)
    :param keep_norm: keep the norm of every latent at ``sqrt(d)``
    :param m: images per gradient query
    :param k: number of best images that are ranked
    :param smoothing: relative size of a variation, above
    :param batch_size: images decoded at once; None for all
    :param device: give torch tensors on this device to ``decode``; None for numpy arrays
    :param search: zo_ranksgd, cmaes, one_plus_lambda, or auto, which chooses by the number of directions
    :param settings: more of :class:`rlopt.ZORankSGD`, such as ``line_search_points`` or ``accumulate``
    :raises rlopt.errors.DecodeError: ``decode`` gives other images for the same latents, or no images
    """

    def __init__(
        self,
        decode: Decode,
        start: NDArray[Any] | Sequence[int],
        *,
        search: str = "zo_ranksgd",
        subspace: int | None = None,
        keep_norm: bool = True,
        m: int = 8,
        k: int = 3,
        smoothing: float = 0.3,
        learning_rate: float = 1.0,
        line_search_points: int = 5,
        line_search_decay: float = 0.3,
        best_query_in_line_search: bool = True,
        batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.space = LatentSpace(start, subspace=subspace, keep_norm=keep_norm, seed=seed)
        self.decoder = Decoder(decode, batch_size=batch_size, device=device, dtype=dtype)
        self.settings: dict[str, Any] = {
            "search": search,
            "m": m,
            "k": k,
            "smoothing": smoothing,
            "learning_rate": learning_rate,
            "line_search_points": line_search_points,
            "line_search_decay": line_search_decay,
            "best_query_in_line_search": best_query_in_line_search,
            "seed": seed,
            **settings,
        }
        self.optimizer, self.search_words = self._search()
        self.rival = BestOfN(self.space, n=m, seed=seed)
        another = self.space.draw(1, np.random.default_rng([seed, 4]))
        self.decoder.check(self.space.latents(np.vstack([self.space.origin, another])))

    def _search(self) -> tuple[RankedSearch, str]:
        own = dict(self.settings)
        name, seed = own.pop("search"), own.pop("seed")
        usual = inspect.signature(LatentSearch).parameters
        for setting in () if name in ("zo_ranksgd", "auto") else LINE_SEARCH_SETTINGS:
            if setting in own and (setting not in usual or own[setting] != usual[setting].default):
                raise ConfigError(
                    f"{setting} is of ZO-RankSGD's line search, which search={name!r} has not: leave it out"
                )
        return make_search(name, self.space.origin, own | {"subspace": self.space.directions}, seed=seed, noisy=True)

    @property
    def latent(self) -> Array:
        """The current latent ``[*shape]``."""
        return self.space.latents(self.optimizer.point[None])[0]

    @property
    def images_shown(self) -> int:
        """Images of all queries answered, the current latent's again in each line search."""
        return self.optimizer.oracle_points

    @property
    def rounds(self) -> int:
        """Queries answered."""
        return self.optimizer.iteration

    def ask(self) -> LatentQuery:
        """The open query with its images, the same one until ``tell`` is called."""
        query = self.optimizer.ask()
        latents = self.space.latents(query.candidates)
        return LatentQuery(query.kind, query.iteration, latents, self.decoder(latents), query.k, query.current)

    def tell(self, answer: Ranking | Sequence[Ranking]) -> None:
        """Takes the answer to the open query, or those of several people.

        :raises rlopt.errors.AnswerError: it does not fit the query
        """
        self.optimizer.tell(answer)

    def run(self, oracle: ImageOracle, rounds: int, *, best_of_n: bool = True) -> LatentResult:
        """Asks ``oracle`` for ``rounds`` more rounds, and then to compare the result with the best of N.

        N is the number of images of the search, including repeats. Best-of-N gets as many new ones, ``m`` per query;
        its best so far is shown again in each query without being counted.

        :param best_of_n: False halves the images that a person sees, and gives no baseline for the result
        :raises rlopt.errors.ConfigError: ``rounds`` is not positive
        """
        if rounds < 1:
            raise ConfigError(f"rounds is {rounds}: ask for 1 or more")
        for _ in range(rounds):
            query = self.ask()
            self.tell(oracle(query.images, query.k))
        while best_of_n and self.rival.drawn < self.images_shown:
            # In queries of m, the last one smaller: the count is what has to be equal.
            asked = self.rival.ask(min(self.settings["m"], self.images_shown - self.rival.drawn))
            self.rival.tell(oracle(self.decoder(self.space.latents(asked.candidates)), 1))
        return self._result(oracle, best_of_n)

    def _result(self, oracle: ImageOracle, best_of_n: bool) -> LatentResult:
        names: tuple[str, ...] = ("start", "search")
        points = [self.space.origin, self.optimizer.point]
        if best_of_n:
            names = (*names, "best of N")
            points.append(self.rival.point)
        latents = self.space.latents(np.stack(points))
        pictures = self.decoder(latents)
        final = oracle(pictures, len(names))
        final.check(len(names))
        return LatentResult(self.rounds, self.images_shown, names, latents, pictures, final)

    def save(self, folder: str | Path) -> Path:
        """Writes the search to ``folder``, whole or not at all, and returns it; without ``decode``, and no pickle.

        A latent search that is there already is replaced, and nothing else is.

        :raises rlopt.errors.CheckpointError: something else is there, or the file system refuses
        """
        from rlopt.storage.checked_folder import replace_checked

        optimizer, optimizer_arrays = self.optimizer.state_dict()
        rival, rival_arrays = self.rival.state_dict()
        tree: dict[str, Any] = {
            "settings": self.settings,
            "start": self.space.origin.reshape(self.space.shape),
            "subspace": None if self.space.directions is None else self.space.directions.shape[1],
            "keep_norm": self.space.keep_norm,
            "optimizer": [optimizer, optimizer_arrays],
            "rival": [rival, rival_arrays],
        }
        return replace_checked(Path(folder), _kind(), {"search": tree})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        decode: Decode,
        *,
        batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> LatentSearch:
        """The search that :meth:`save` wrote; it continues bit for bit if ``decode`` gives the same images.

        :raises rlopt.errors.CheckpointError: the folder is damaged or holds no latent search
        """
        from rlopt.storage.checked_folder import read_checked

        _, trees = read_checked(Path(folder), _kind())
        try:
            tree = trees["search"]
            how: dict[str, Any] = {"batch_size": batch_size, "device": device, "dtype": dtype}
            how |= tree["settings"] | {"keep_norm": tree["keep_norm"], "subspace": tree["subspace"]}
            search = cls(decode, tree["start"], **how)
            search.optimizer.load_state_dict(*tree["optimizer"])
            search.rival.load_state_dict(*tree["rival"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{folder} holds no latent search ({error}): save one by its save()") from error
        return search


def _kind() -> Any:
    # Reads and writes through torch's safetensors, which a search on numpy alone need not load.
    from rlopt.storage.checked_folder import FolderKind

    return FolderKind("latent search", "rlopt-latent-search")
