"""Policy search ranked by people: clips of the ranked episodes, in a study that outlives the process."""

import dataclasses
import hashlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.evolution import RankedCMAES
from rlopt.agents.zo_ranksgd.optimizer import Query, ZORankSGD
from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.agents.zo_ranksgd.policies import saving as policy_saving
from rlopt.agents.zo_ranksgd.policies import study_server
from rlopt.agents.zo_ranksgd.policies.candidates import Evaluation, RoundStopped, round_seeds
from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, Normalizer
from rlopt.agents.zo_ranksgd.policies.rounds import Round
from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.agents.zo_ranksgd.policies.vector import inputs_of
from rlopt.console.progress import say
from rlopt.envs.rendering import drawn_image
from rlopt.envs.settings import EnvSettings
from rlopt.errors import CheckpointError, ConfigError, StudyError
from rlopt.evaluation.video import frame_rate, make_to_draw
from rlopt.feedback import protocol_rounds
from rlopt.feedback.clips import Clip, write_clip
from rlopt.feedback.database import DatabaseUnreachableError
from rlopt.feedback.protocol import StudyProtocol, read_protocol
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.store import open_store
from rlopt.feedback.study import HumanStudy
from rlopt.run_folder import shell_quote
from rlopt.settings.run import RunConfig

UNDO_SECONDS = 2.0
"""For how long a complete round can still be undone."""
LOOK_SECONDS = 1.0
"""How often a waiting search looks for a request to stop."""
_ARRAYS = ("mean", "deviations")


class StudiedSearch:
    """What a :class:`rlopt.feedback.study.HumanStudy` asks and tells: a policy search with all that its rounds change.

    Beside the optimiser's, its state holds the statistics of observations and the counters, so that a study alone is
    enough to continue from. The episodes of a round are played when it is asked, not when it is told.
    """

    def __init__(self, search: RankedPolicySearch) -> None:
        self.search = search
        self._played: tuple[str, Evaluation] | None = None

    @property
    def point(self) -> FloatArray:
        """``[d]`` float64: the current parameters of the policy."""
        return self.search.point

    def ask(self) -> Any:
        """The query to be ranked now; the same one until it is told."""
        query = self.search.optimizer.ask()
        self.evaluation(query)
        return query

    def normalizer(self, query: Query | None) -> Normalizer:
        """The statistics by which observations are normalised while the candidates of a query act."""
        return self.search.normalizer

    def evaluation(self, query: Query) -> Evaluation:
        """What the candidates of the current query do; played once."""
        key = hashlib.sha256(query.candidates.tobytes()).hexdigest()
        if self._played is None or self._played[0] != key:
            self._played = key, self.search.evaluate_candidates(query)
        return self._played[1]

    def tell(self, answers: Any) -> Any:
        """Takes the answers to the query."""
        query = self.search.optimizer.ask()
        given = [answers] if isinstance(answers, Ranking) else list(answers)
        return self.search.complete_round(query, self.evaluation(query), given)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays); copies."""
        tree = policy_saving.progress_of(self.search)
        optimizer, normalizer = tree.pop("optimizer"), tree.pop("normalizer")
        arrays = {f"optimizer.{name}": array for name, array in optimizer["arrays"].items()}
        arrays |= {f"observations.{name}": normalizer[name] for name in _ARRAYS}
        return {**tree, "optimizer": optimizer["state"], "observations": normalizer["count"]}, arrays

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues where :meth:`state_dict` was called."""
        tree = dict(state)
        prefix = "optimizer."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        statistics = {name: np.array(arrays[f"observations.{name}"]) for name in _ARRAYS}
        tree["optimizer"] = {"state": tree["optimizer"], "arrays": own}
        tree["normalizer"] = {"count": tree.pop("observations"), **statistics}
        policy_saving.put_progress(self.search, tree)

    def digest(self) -> str:
        """SHA-256 of the whole state, in hexadecimal digits."""
        return saving.digest(*self.state_dict())


class ParallelStudiedSearch(StudiedSearch):
    """As :class:`StudiedSearch`, of a search that asks several queries at a time.

    The candidates of a query act with the statistics of observations of the moment at which it was drawn. They are part
    of the state, so that a round which waited through an update, or a restart, is the one that people saw.
    """

    def __init__(self, search: RankedPolicySearch) -> None:
        super().__init__(search)
        self._plays: dict[int, Evaluation] = {}
        self._statistics: dict[int, dict[str, Any]] = {}
        self._remember()

    @property
    def _asking(self) -> ParallelSearch:
        optimizer: Any = self.search.optimizer
        assert isinstance(optimizer, ParallelSearch)
        return optimizer

    @property
    def rounds(self) -> int:
        """Queries that an update takes."""
        return self._asking.rounds

    def _remember(self) -> None:
        """Keeps the present statistics for the queries drawn since the last update, and forgets those of told ones."""
        now = self.search.normalizer.get_state()
        waiting = [query.iteration for query in self.ask()]
        self._statistics = {number: self._statistics.get(number, now) for number in waiting}
        self._plays = {number: played for number, played in self._plays.items() if number in self._statistics}

    def ask(self) -> list[Query]:
        """The queries that wait, oldest first; their episodes are played when they are drawn."""
        return self._asking.ask()

    def normalizer(self, query: Query | None) -> Normalizer:
        """The statistics of when the query was drawn."""
        if query is None:
            return self.search.normalizer
        found = Normalizer(self.search.normalizer.size)
        found.set_state(self._statistics[query.iteration])
        return found

    def evaluation(self, query: Query) -> Evaluation:
        """What the candidates of a query that waits do; played once."""
        number = query.iteration
        if number not in self._plays:
            self._plays[number] = self.search.evaluate_candidates(query, self.normalizer(query))
        return self._plays[number]

    def tell(
        self, answers: Mapping[int, Sequence[Ranking]], trust: Mapping[int, Sequence[float]] | None = None
    ) -> list[Round]:
        """Takes the answers to as many queries as an update needs, by their numbers."""
        search = self.search
        queries = {query.iteration: query for query in self.ask()}
        played = {number: self.evaluation(queries[number]) for number in sorted(answers)}
        outcome = self._asking.tell(answers, trust)
        told = [
            Round(queries[number], tuple(answers[number]), evaluation, outcome, self._statistics[number])
            for number, evaluation in played.items()
        ]
        search._count(told)
        self._remember()
        return told

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays); copies."""
        state, arrays = super().state_dict()
        for number, kept in self._statistics.items():
            arrays |= {f"waiting.{number}.{name}": kept[name].copy() for name in _ARRAYS}
        return {**state, "waiting": {str(number): kept["count"] for number, kept in self._statistics.items()}}, arrays

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues where :meth:`state_dict` was called."""
        if "waiting" not in state:
            raise CheckpointError("this is the state of a search with one round at a time: use --parallel-rounds 0")
        own = dict(state)
        counts = own.pop("waiting")
        self._plays.clear()
        super().load_state_dict(own, arrays)
        self._statistics = {
            int(number): {"count": count, **{name: np.array(arrays[f"waiting.{number}.{name}"]) for name in _ARRAYS}}
            for number, count in counts.items()
        }
        self._remember()


class ClipArtist:
    """Draws the candidates of a query, each playing its episodes: those that are ranked, one after the other.

    It plays in an environment of its own, made when first needed.

    :param studied: whose candidates are drawn
    :param settings: settings of the environments in which candidates are played
    :param fps: images per second of simulated time, at most
    :param size: longer side of the images in pixels
    """

    def __init__(self, studied: StudiedSearch, settings: EnvSettings, fps: float, size: int) -> None:
        self.studied, self.settings, self.fps, self.size = studied, settings, fps, size
        self._env: Any = None

    def __call__(self, query: Any, folder: Path) -> list[Clip]:
        """A clip of each candidate, in ``folder``.

        :raises rlopt.agents.zo_ranksgd.policies.candidates.RoundStopped: for a request to stop
        """
        search = self.studied.search
        ranked = isinstance(query, Query)
        seeds = round_seeds(
            search.seed,
            query.iteration if ranked else 0,
            len(query.candidates),
            search.config.episodes_per_candidate,
            search.config.common_random_numbers,
        )
        returns = self.studied.evaluation(query).returns if ranked else np.full(len(query.candidates), np.nan)
        env = self.open()
        rate = frame_rate(env) / self.settings.action_repeat
        stride = max(1, round(rate / self.fps))
        clips = []
        for index, candidate in enumerate(query.candidates):
            if ranked and search.stop_request.received is not None:
                raise RoundStopped
            normalizer = self.studied.normalizer(query if ranked else None)
            images = self._images(candidate, seeds[index].tolist(), stride, normalizer)
            known = float(returns[index]) if np.isfinite(returns[index]) else None
            path = folder / f"{index}.mp4"
            clips.append(write_clip(path, images, rate / stride, seeds=seeds[index].tolist(), hidden_return=known))
        return clips

    def _images(
        self, candidate: FloatArray, seeds: list[int], stride: int, normalizer: Normalizer
    ) -> Iterator[np.ndarray]:
        search, env = self.studied.search, self.open()
        acting = search.policy_vector.prepare(candidate[None])
        for seed in seeds:
            observations, ended, step = env.start_episodes([seed]), False, 0
            yield self._image()
            while not ended:
                inputs = inputs_of(search.policy_vector, env.observation_space, observations)
                if normalizer.size is not None:
                    inputs = normalizer.apply(inputs)
                actions = search.policy_vector.act(acting, inputs)
                if not np.isfinite(actions).all():
                    break
                observations, rewards, ends = env.step_rows(np.array([0]), actions)
                step, ended = step + 1, bool(ends[0]) or not np.isfinite(rewards[0])
                if step % stride == 0 or ended:
                    yield self._image()

    def _image(self) -> np.ndarray:
        image = drawn_image(self._env, self.settings.id)
        longest = max(image.shape[:2])
        if longest > self.size:
            from PIL import Image

            height, width = (max(1, round(side * self.size / longest)) for side in image.shape[:2])
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
        return image

    def open(self) -> Any:
        """The environment, made unless it is there."""
        if self._env is None:
            single = dataclasses.replace(self.settings, n_envs=1, backend="gymnasium", render_mode="rgb_array")
            try:  # MuJoCo draws small images much faster
                self._env = make_to_draw(
                    dataclasses.replace(single, env_kwargs={"width": self.size, "height": self.size})
                )
            except ConfigError:
                self._env = make_to_draw(single)
        return self._env

    def close(self) -> None:
        """Closes the environment."""
        if self._env is not None:
            self._env.close()
            self._env = None


class HumanPolicySearch(RankedPolicySearch):
    """A policy search that people answer; made by :meth:`of_run`.

    The study is opened, or continued, when learning begins: it then continues from the last round that was consumed
    there, which may be later than a checkpoint.
    """

    place: str
    study_name: str

    @classmethod
    def of_run(cls, run: RunConfig, config: Any, settings: EnvSettings, **arguments: Any) -> Self:
        """The search of a run."""
        search = cls(config.policy, settings, **arguments)
        folder = Path(run.run_dir or ".")
        search.place = config.database or str(folder / "study")
        search.study_name = config.study or folder.absolute().name
        search._clip_config = config
        search._protocol = read_protocol(config.protocol)
        search._parallel = search._people()
        if search._parallel:
            made: Any = search.optimizer
            together: Any = ParallelSearch.for_people(made, search._parallel)
            search.optimizer = together
        return search

    def _people(self) -> int:
        """For how many people at once rounds are open; 0 for one round at a time. A study continues as it began."""
        wanted = self._clip_config.parallel_rounds
        begun = self._begun()
        if begun is not None:
            if wanted not in (None, begun):
                raise StudyError(f"study {self.study_name!r} has parallel_rounds={begun}, not {wanted}: keep it, or "
                                 "use another name")  # fmt: skip
            return begun
        if wanted is None:
            return int(isinstance(self.optimizer, (ZORankSGD, RankedCMAES)))
        return int(wanted)

    def _begun(self) -> int | None:
        """What the study began with; None where there is none yet."""
        if "://" not in self.place and not (Path(self.place) / "study.db").is_file():
            return None
        try:
            store = open_store(self.place, self._clip_config.media)
        except DatabaseUnreachableError:
            raise
        except StudyError:  # it is told where the study is opened, or made
            return None
        try:
            found = store.find(self.study_name)
            return None if found is None else int(found.config.get("parallel_rounds", 0))
        finally:
            store.close()

    _protocol = StudyProtocol()
    _parallel = 0
    _told: Sequence[Round] = ()
    _clip_config: Any = None
    _artist: ClipArtist | None = None
    _server: subprocess.Popen[bytes] | None = None

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """As :meth:`RankedPolicySearch.learn`, with people's answers; the server, if asked for, lives as long."""
        self._begin_study()
        try:
            super().learn(*args, **kwargs)
            if not self._affordable():
                self._finish()
        finally:
            self._end_study()
        return self

    def _count(self, rounds: Sequence[Round]) -> None:
        super()._count(rounds)
        self._told = rounds

    def _affordable(self) -> bool:
        if self.study is not None and self._is_over():
            return False
        if not self._parallel:
            return super()._affordable()
        episodes, queries = self._limits
        optimizer: Any = self.optimizer
        if self.num_timesteps >= self._total_timesteps:
            return False
        if queries is not None and self.num_queries + optimizer.rounds > queries:
            return False
        largest = sorted((len(query.candidates) for query in optimizer.ask()), reverse=True)[: optimizer.rounds]
        return episodes is None or self.num_episodes + sum(largest) * self.config.episodes_per_candidate <= episodes

    def _is_over(self) -> bool:
        """Whether the time of the study is up."""
        store = self.study.store
        if self._protocol.study_hours is None:
            return False
        with store.database.read() as connection:
            return protocol_rounds.is_over(connection, self._protocol, self.study.study, store.clock())

    def _play_rounds_of_update(self) -> Sequence[Round]:
        if self.study.step() is not None:
            return self._told
        if self._server is not None and self._server.poll() is not None:
            raise StudyError(
                "the server of the study has ended, so that nobody can rank: rlopt resume starts another, or begin "
                "with another --port, or with --no-serve"
            )
        return ()

    def _finish(self) -> None:
        """Tells people that the study is over, and leaves their browsers the time to hear of it."""
        self.study.finish()
        say(f"the study is over; its results are shown by: {self._serve_command()}")
        if self._server is not None:
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout=study_server.FAREWELL_SECONDS)

    def _begin_study(self) -> None:
        config = self._clip_config
        assert self.env is not None
        studied = ParallelStudiedSearch(self) if self._parallel else StudiedSearch(self)
        settings: EnvSettings = self.env.settings  # type: ignore[attr-defined]
        self._artist = ClipArtist(studied, settings, config.clip_fps, config.clip_size)
        self._artist.open()  # what cannot be drawn is told before there is a study
        if "://" not in self.place:
            Path(self.place).mkdir(parents=True, exist_ok=True)
        self.study = HumanStudy(
            open_store(self.place, config.media, create=True),
            self.study_name,
            studied,
            self._artist,
            annotators=config.annotators,
            instructions=config.instructions,
            config={
                "env": settings.as_dict(),
                "settings": policy_saving.tree_of(self)["settings"],
                "parallel_rounds": self._parallel,
            },
            undo_seconds=UNDO_SECONDS,
            deadline_seconds=LOOK_SECONDS,
        )
        if not config.instructions:
            say("raters are not told what is better: say so with --instructions TEXT")
        if not config.serve:
            say(f"waiting for people: {self._serve_command()}")
            return
        answered = f"{self.study.iteration} {'round is' if self.study.iteration == 1 else 'rounds are'} answered"
        say(f"study {self.study_name!r}: {answered}; open this link to rank clips:")
        protocol = [] if config.protocol is None else ["--protocol", config.protocol]
        self._server = study_server.start([*self._served(), *protocol, "--port", str(config.port)])

    def _served(self) -> list[str]:
        media = self._clip_config.media
        return [self.place, "--name", self.study_name, *([] if media is None else ["--media", media])]

    def _serve_command(self) -> str:
        return "rlopt rank serve " + " ".join(map(shell_quote, self._served()))

    def _end_study(self) -> None:
        if self._server is not None:
            study_server.stop(self._server)
            self._server = None
        if self._artist is not None:
            self._artist.close()
        if self.study is not None:
            self.study.store.close()
            self.study = None
