"""Ranking in a notebook: the clips are shown inline, the answer is typed. IPython is imported when clips are shown.

The answer names the clips by the numbers that they are shown with, best first: ``3 1=4 2`` says that clip 3 is the
best, that 1 and 4 tie behind it, and that 2 comes last; clips that are left out are worse than all that are named.
``skip`` says nothing.
"""

import random
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlopt.errors import AnswerError, ConfigError
from rlopt.feedback.clips import Clip
from rlopt.feedback.ranking import Ranking

_GROUP = re.compile(r"\d{1,4}(\s*=\s*\d{1,4})*")


def parse_answer(text: str, display: Sequence[int]) -> Ranking:
    """The ranking of a typed answer such as ``3 1=4 2``.

    Spaces, commas and ``>`` separate the places; ``=`` joins clips that tie.

    :param text: by the numbers on the screen, from 1
    :param display: the candidate that is shown with number 1, 2, ...
    :raises AnswerError: it is none, names a clip twice, or one that is not there
    """
    m = len(display)
    if text.strip().lower() in ("skip", "?"):
        return Ranking(tiers=(), abstain=True)
    tight = re.sub(r"\s*=\s*", "=", text.strip())
    groups = [group for group in re.split(r"[\s,>]+", tight) if group]
    if not groups:
        raise AnswerError("name at least the best clip, as in 3 1=4 2, or type skip")
    tiers: list[tuple[int, ...]] = []
    named: set[int] = set()
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise AnswerError(f"{group[:20]!r} is not a place: type numbers, best first, as in 3 1=4 2, or skip")
        numbers = [int(number) for number in group.split("=")]
        for number in numbers:
            if not 1 <= number <= m:
                raise AnswerError(f"there is no clip {number}: they are numbered 1 to {m}")
            if number in named:
                raise AnswerError(f"clip {number} is named twice")
            named.add(number)
        tiers.append(tuple(display[number - 1] for number in numbers))
    unranked = tuple(display[number - 1] for number in range(1, m + 1) if number not in named)
    return Ranking(tiers=tuple(tiers), unranked=unranked)


class NotebookOracle:
    """Asks whoever reads the notebook: ``optimizer.tell(oracle(optimizer.ask()))``.

    Nothing is stored: :class:`rlopt.feedback.study.HumanStudy` is for what must survive a crash.

    :param render: draws the candidates of a query into a folder, a clip each, as for a study
    :param folder: folder of the clips; a temporary one unless given
    :param ask: prints a question and returns what was typed
    :param show: shows a numbered clip; inline unless given
    :param seed: seed of the orders in which candidates are shown; a new one each time unless given
    """

    def __init__(
        self,
        render: Callable[[Any, Path], list[Clip]],
        folder: str | Path | None = None,
        *,
        ask: Callable[[str], str] = input,
        show: Callable[[int, Clip], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self._render, self._ask, self._show = render, ask, show or show_inline
        self._temporary = tempfile.TemporaryDirectory(prefix="rlopt-clips-") if folder is None else None
        self._folder = Path(folder if self._temporary is None else self._temporary.name)  # type: ignore[arg-type]
        self._random = random.Random(seed)
        self._asked = 0

    def __call__(self, query: Any) -> Ranking:
        """Shows the query's clips in a random order and asks until the answer can be read."""
        folder = self._folder / f"query-{self._asked:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._asked += 1
        clips = self._render(query, folder)
        m = len(query.candidates)
        if len(clips) != m:
            raise ConfigError(f"render drew {len(clips)} clips of {m} candidates: draw one each")
        display = self._random.sample(range(m), m)
        for number, slot in enumerate(display, start=1):
            self._show(number, clips[slot])
        wanted = f"the {query.k} best of {m}" if query.k < m else f"all {m}"
        question = f"Rank {wanted}, best first (as in 3 1=4 2), or skip: "
        while True:
            try:
                answer = parse_answer(self._ask(question), display)
                answer.check(m)
            except AnswerError as error:
                print(f"{error}")
            else:
                return answer


def show_inline(number: int, clip: Clip) -> None:
    """Shows a clip below the notebook's cell, under its number.

    :raises ConfigError: IPython is not installed
    """
    try:
        from IPython.display import HTML, Image, Video, display
    except ModuleNotFoundError:
        raise ConfigError("clips are shown inline by IPython: pip install ipython, or pass show=") from None
    shown: Any
    if clip.path.suffix.lower() == ".mp4":
        shown = Video(str(clip.path), embed=True, width=clip.width, html_attributes="controls muted loop")
    else:
        shown = Image(filename=str(clip.path))
    display(HTML(f"<strong>{number}</strong>"), shown)
