"""A policy search ranked by people: clips of the episodes themselves, in a study that outlives the process."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.optimizer import Query
from rlopt.agents.zo_ranksgd.policies import saving as policy_saving
from rlopt.agents.zo_ranksgd.policies import study_server
from rlopt.agents.zo_ranksgd.policies.candidates import Evaluation, RoundStopped, round_seeds
from rlopt.agents.zo_ranksgd.policies.observations import FloatArray
from rlopt.agents.zo_ranksgd.policies.rounds import Round
from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.agents.zo_ranksgd.policies.vector import inputs_of
from rlopt.console.progress import say
from rlopt.envs.rendering import drawn_image
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, StudyError
from rlopt.evaluation.video import frame_rate, make_to_draw
from rlopt.feedback.clips import Clip, write_clip
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
    enough to go on from. The episodes of a round are played when it is asked, not when it is told.
    """

    def __init__(self, search: RankedPolicySearch) -> None:
        self.search = search
        self._played: tuple[str, Evaluation] | None = None

    @property
    def point(self) -> FloatArray:
        """``[d]`` float64: the present parameters of the policy."""
        return self.search.point

    def ask(self) -> Query:
        """The query to be ranked now; the same one until it is told."""
        query = self.search.optimizer.ask()
        self.evaluation(query)
        return query

    def evaluation(self, query: Query) -> Evaluation:
        """What the candidates of the present query do; played once."""
        key = hashlib.sha256(query.candidates.tobytes()).hexdigest()
        if self._played is None or self._played[0] != key:
            self._played = key, self.search.evaluate_candidates(query)
        return self._played[1]

    def tell(self, answers: Ranking | Sequence[Ranking]) -> Round:
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
        """Goes on where :meth:`state_dict` was called."""
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


class ClipArtist:
    """Draws the candidates of a query, each playing its episodes: those that are ranked, one after the other.

    It plays in an environment of its own, made when first needed.

    :param studied: whose candidates are drawn
    :param settings: of the environments in which candidates are played
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
            images = self._images(candidate, seeds[index].tolist(), stride)
            known = float(returns[index]) if np.isfinite(returns[index]) else None
            path = folder / f"{index}.mp4"
            clips.append(write_clip(path, images, rate / stride, seeds=seeds[index].tolist(), hidden_return=known))
        return clips

    def _images(self, candidate: FloatArray, seeds: list[int], stride: int) -> Iterator[np.ndarray]:
        search, env = self.studied.search, self.open()
        acting = search.policy_vector.prepare(candidate[None])
        for seed in seeds:
            observations, ended, step = env.start_episodes([seed]), False, 0
            yield self._image()
            while not ended:
                inputs = inputs_of(search.policy_vector, env.observation_space, observations)
                if search.normalizer.size is not None:
                    inputs = search.normalizer.apply(inputs)
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

    The study is opened, or continued, when learning begins: it then goes on from the last round that was consumed
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
        return search

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

    def _play_round(self) -> Round | None:
        if self.study.step() is not None:
            return self.last_round
        if self._server is not None and self._server.poll() is not None:
            raise StudyError(
                "the server of the study has ended, so that nobody can rank: rlopt resume starts another, or begin "
                "with another --port, or with --no-serve"
            )
        return None

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
        studied = StudiedSearch(self)
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
            config={"env": settings.as_dict(), "settings": policy_saving.tree_of(self)["settings"]},
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
        self._server = study_server.start([*self._served(), "--port", str(config.port)])

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
