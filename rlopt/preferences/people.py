"""People who say which fragments are better: fragments on film, and the questions of a ranking study."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.envs.flat import flat_rows
from rlopt.envs.rendering import drawn_image
from rlopt.envs.settings import EnvSettings
from rlopt.errors import AnswerError, CheckpointError, ConfigError, DataError, one_line
from rlopt.evaluation.video import frame_rate, make_to_draw
from rlopt.feedback.agreement import LEAST_TRUST
from rlopt.feedback.clips import Clip, write_clip
from rlopt.feedback.ranking import Ranking, total_weights
from rlopt.preferences.config import PreferenceConfig
from rlopt.preferences.environment import batch_of_one
from rlopt.preferences.fragments import Fragments, Preferences
from rlopt.preferences.learner import PreferenceLearner
from rlopt.storage.checked_folder import FolderKind, read_checked, replace_checked

KIND = FolderKind("filmed fragments", "rlopt-filmed-fragments", error=DataError)
CLIP_FPS = 30.0
"""Images of a clip per second of simulated time, at most."""
CLIP_SIZE = 320
"""Longer side of an image in pixels where the environment can be told."""
_TRIES = 50
"""Fragments in a row that a time limit may cut short."""


@dataclass(frozen=True)
class Film:
    """Fragments, and a clip of each."""

    fragments: Fragments
    clips: list[Clip]

    def save(self, folder: Path) -> None:
        """Writes what :meth:`load` reads; the clips stay where they are."""
        clips = [dataclasses.asdict(clip) | {"path": clip.path.name, "poster": clip.poster.name} for clip in self.clips]
        for clip in clips:
            clip["seeds"] = list(clip["seeds"])
        replace_checked(folder / "fragments", KIND, {"film": {"fragments": self.fragments.arrays(), "clips": clips}})

    @classmethod
    def load(cls, folder: Path) -> Film:
        """The film in ``folder``; raises :class:`rlopt.errors.DataError` if it is damaged."""
        _, trees = read_checked(folder / "fragments", KIND)
        try:
            fragments = Fragments(**trees["film"]["fragments"])
            clips = []
            for each in trees["film"]["clips"]:
                files = {"path": folder / each["path"], "poster": folder / each["poster"]}
                clips.append(Clip(**{**each, **files, "seeds": tuple(each["seeds"])}))
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder} holds no filmed fragments ({one_line(error)})") from error
        fragments.check()
        missing = [clip.path for clip in clips if not clip.path.is_file()]
        if len(clips) != len(fragments) or missing:
            raise DataError(f"{folder} lacks clips of its fragments: delete it, and film anew")
        return cls(fragments, clips)


def film_fragments(settings: EnvSettings, policy: Any, count: int, length: int, folder: Path, *, seed: int) -> Film:
    """Plays and films fragments one behind the other.

    :param settings: settings of the environment; one is made, which draws
    :param policy: acts by ``predict``, not deterministically; None acts at random
    :param length: steps of a fragment; one that ends truly is shorter, and one that a time limit cuts is left out
    :raises rlopt.errors.ConfigError: the environment cannot be drawn, or has no episode as long as a fragment
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made ({error.strerror}): use another") from None
    single = dataclasses.replace(settings, n_envs=1, seed=seed, backend="gymnasium", render_mode="rgb_array")
    try:  # MuJoCo draws small images much faster
        env = make_to_draw(dataclasses.replace(single, env_kwargs={"width": CLIP_SIZE, "height": CLIP_SIZE}))
    except ConfigError:
        env = make_to_draw(single)
    try:
        rate = frame_rate(env) / settings.action_repeat
        env.action_space.seed(seed)
        observations, cut, time, episode = env.reset(), 0, 0, 0
        found: list[Fragments] = []
        clips: list[Clip] = []
        while len(found) < count:
            steps: list[tuple[Any, ...]] = []
            images, first = [drawn_image(env, settings.id)], time
            done = ended = False
            while len(steps) < length and not done:
                here = flat_rows(observations, env.observation_space)[0]
                action = (
                    np.array([env.action_space.sample()])
                    if policy is None
                    else policy.predict(observations, deterministic=False)[0]
                )
                observations, rewards, dones, infos = env.step(action)
                done, time = bool(dones[0]), time + 1
                ended = done and not infos[0].get("TimeLimit.truncated", False)
                steps.append((here, action[0], float(rewards[0])))
                if not done:  # else it shows the next episode
                    images.append(drawn_image(env, settings.id))
            last = observations if not done else batch_of_one(infos[0]["terminal_observation"])
            if len(steps) == length or ended:
                stride = max(1, round(rate / CLIP_FPS))
                gained = float(sum(step[2] for step in steps))
                path = folder / f"{len(found)}.mp4"
                clips.append(write_clip(path, images[::stride], rate / stride, hidden_return=gained))
                found.append(_fragment(steps, length, flat_rows(last, env.observation_space), episode, first))
                cut = 0
            elif (cut := cut + 1) == _TRIES:
                raise ConfigError(f"episodes of {settings.id} are shorter than fragment_length = {length}: lower it")
            if done:
                time, episode = 0, episode + 1
        return Film(Fragments.joined(found), clips)
    finally:
        env.close()


def _fragment(steps: Sequence[tuple[Any, ...]], length: int, last: np.ndarray, episode: int, first: int) -> Fragments:
    observations, actions, rewards = (np.stack(column) for column in zip(*steps, strict=True))
    made = Fragments(
        observations[None].astype(np.float32),
        actions[None],
        np.array([len(steps)]),
        rewards[None].astype(np.float32),
        last.astype(np.float32),
        np.array([episode]),
        np.array([first]),
    )
    return made.padded(length)


@dataclass(frozen=True)
class FragmentQuery:
    """A question, as :class:`rlopt.feedback.study.HumanStudy` asks it."""

    kind: str
    iteration: int
    candidates: np.ndarray
    """[m, 1] float64: the fragments' numbers."""
    k: int
    current: int | None = None


class FragmentQuestions:
    """What a :class:`rlopt.feedback.study.HumanStudy` asks and tells: questions about filmed fragments.

    A question waits for each of ``people`` who answer at once, and one more for the next who comes. A new question is
    the one, of ``candidates`` drawn, on which an ensemble disagrees most that is fitted to the answers so far; an
    answer counts however many came before it.

    :param film: the fragments
    :param config: the settings
    :param people: who answer at once
    :param seed: seed of the questions that are drawn and of the ensembles
    """

    rounds = 1
    """Questions that :meth:`tell` takes."""

    def __init__(
        self,
        film: Film,
        config: PreferenceConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        people: int = 1,
        seed: int = 0,
    ) -> None:
        if len(film.fragments) < config.compare:
            raise ConfigError(f"{len(film.fragments)} fragments are too few for questions of {config.compare}")
        self.film, self.config, self.people, self.seed = film, config, people, seed
        self._spaces = observation_space, action_space
        self._answers: list[tuple[list[int], list[Ranking]]] = []
        self._waiting: dict[int, list[int]] = {}
        """Fragments of the questions that wait, by the questions' numbers."""
        self._drawn = 0

    @property
    def point(self) -> np.ndarray:
        """[1] float64: of a search the current point; here the first fragment."""
        return np.zeros(1)

    @property
    def iteration(self) -> int:
        """Questions answered."""
        return len(self._answers)

    def preferences(self) -> Preferences:
        """All answers, one of each rater."""
        said = [(shown, answer) for shown, answers in self._answers for answer in answers]
        return Preferences.of(self.film.fragments, [shown for shown, _ in said], [answer for _, answer in said])

    def ask(self) -> list[FragmentQuery]:
        """The questions that wait, oldest first; the same ones until one is told."""
        missing = self.rounds + self.people - len(self._waiting)
        if missing > 0:
            learner = self._learner()
            for _ in range(missing):
                self._waiting[self._drawn] = self._draw(learner)
                self._drawn += 1
        return [self._query(number) for number in self._waiting]

    def _learner(self) -> PreferenceLearner | None:
        """Fitted to the answers so far; None while there are none, or no ensemble that could disagree."""
        preferences = self.preferences()
        if not len(preferences) or self.config.ensemble < 2:
            return None
        learner = PreferenceLearner(self.config, *self._spaces, preferences=preferences, seed=self.seed)
        learner.fit()
        return learner

    def _draw(self, learner: PreferenceLearner | None) -> list[int]:
        config, rng = self.config, np.random.default_rng([self.seed, self._drawn])
        count = len(self.film.fragments)
        drawn = np.stack([rng.permutation(count)[: config.compare] for _ in range(config.candidates)])
        if learner is not None:
            drawn = drawn[learner.informative(self.film.fragments, drawn)]
        options = [[int(index) for index in row] for row in drawn]
        waiting = [set(shown) for shown in self._waiting.values()]
        return next((option for option in options if set(option) not in waiting), options[0])

    def _query(self, number: int) -> FragmentQuery:
        shown = np.array(self._waiting[number], np.float64)[:, None]
        return FragmentQuery("fragments", number, shown, len(shown))

    def tell(
        self, answers: Mapping[int, Sequence[Ranking]], trust: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        """Takes all raters' answers to one question that waits, by its number.

        :param trust: of each answer, from 0 to 1; answers that are hardly trusted are left out
        :raises rlopt.errors.AnswerError: one does not fit; nothing changes then
        """
        if len(answers) != self.rounds or not set(answers) <= set(self._waiting):
            raise AnswerError(f"{sorted(answers)} is not a question that waits for answers")
        ((number, given),) = answers.items()
        shown = self._waiting[number]
        total_weights(given, len(shown))
        weights = [1.0] * len(given) if trust is None else trust[number]
        kept = [answer for answer, weight in zip(given, weights, strict=True) if weight >= LEAST_TRUST]
        self._answers.append((shown, kept))
        del self._waiting[number]

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays): every question with its answers, and those that wait."""
        answers = [[shown, [each.to_json() for each in given]] for shown, given in self._answers]
        waiting = [[number, shown] for number, shown in self._waiting.items()]
        return {"answers": answers, "waiting": waiting, "drawn": self._drawn}, {}

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Takes what :meth:`state_dict` gave; raises :class:`rlopt.errors.CheckpointError` for anything else."""
        try:
            found = [
                ([int(index) for index in shown], [Ranking.from_json(each) for each in given])
                for shown, given in state["answers"]
            ]
            for shown, given in found:
                for answer in given:
                    answer.check(len(shown))
            waiting = {int(number): [int(index) for index in shown] for number, shown in state["waiting"]}
            drawn = int(state["drawn"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the answers of the study are malformed ({one_line(error)})") from error
        self._answers, self._waiting, self._drawn = found, waiting, drawn

    def digest(self) -> str:
        """SHA-256 of the state, in hexadecimal digits."""
        return hashlib.sha256(repr(self.state_dict()[0]).encode()).hexdigest()

    def render(self, query: Any, folder: Path) -> list[Clip]:
        """The clips of a question, copied into ``folder``."""
        clips = []
        for slot, number in enumerate(np.asarray(query.candidates)[:, 0].astype(int)):
            clip = self.film.clips[number]
            path = Path(shutil.copyfile(clip.path, folder / f"{slot}.mp4"))
            poster = Path(shutil.copyfile(clip.poster, path.with_suffix(clip.poster.suffix)))
            clips.append(dataclasses.replace(clip, path=path, poster=poster))
        return clips
