"""Every page does what it says: its Python blocks run, its commands are understood, its links lead somewhere."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import d4rl_files
import pages
import pytest

from rlopt.registry import AGENTS

ROOT = pages.ROOT
PAGES = pages.pages()
ELSEWHERE = {
    "docs/comparing.md": "tests/unit/docs/test_comparing_docs.py",
    "docs/feedback.md": "tests/web/test_feedback_docs.py",
    "agents/guda/README.md": "tests/unit/docs/test_guda_readme.py",
}
"""Page -> the test that executes it and looks at what comes out."""
SETTINGS: dict[str, dict[str, Any]] = {
    "agents/ailboost/README.md": {
        "shorter": {
            "learn(20_000)": "learn(1_900)",
            "learning_starts=1_000": "learning_starts=1_000, learner_steps=200, policy_steps=200",
        }
    },
    "agents/deep_loop/README.md": {
        "wanted": lambda command: True,
        "shorter": {
            "--total-timesteps 200000": "--total-timesteps 200 --run-dir cut",
            "--eval-every 0": "--eval-every 0 --total-timesteps 200 --run-dir uncut",
            "--bonus false": "--bonus false --total-timesteps 200 --run-dir rvi",
        },
    },
    "agents/imitation/README.md": {"shorter": {"learn(100_000)": "learn(1_400)", "n_episodes=10": "n_episodes=1"}},
    "agents/offline/README.md": {
        "shorter": {"learn(1_000_000)": "learn(50)", "learn(100_000)": "learn(50)", "n_episodes=10": "n_episodes=1"}
    },
    "agents/zo_ranksgd/README.md": {"shorter": {"total_episodes=400": "total_episodes=40"}},
    "docs/recipes.md": {"wanted": lambda command: "logged" in command or "shown" in command},
    "docs/tutorial.md": {
        "wanted": lambda command: True,
        "shorter": {
            "200000 --eval-every 50000": "8192 --eval-every 4096 --log-every 2048 --eval-episodes 2",
            "300000": "10240",
            "--episodes 100": "--episodes 4",
            "60000 --eval-every 20000": "4096 --eval-every 2048 --eval-episodes 1",
        },
    },
    "docs/preferences.md": {"shorter": {"learn(10_000,": "learn(250,", "labels=100": "labels=100, query_every=100"}},
    "docs/data.md": {"remarks": ("with a random",)},
    "docs/gpu.md": {"unless": 'device="cuda"'},
}
"""Page -> how it is executed; only lengths are changed."""
QUICK = ("agents/loop/README.md", "docs/data.md", "docs/gpu.md", "docs/scale_out.md")
"""Pages whose blocks train nothing to speak of."""
ON_A_GPU = ("docs/gpu.md",)
"""Pages whose blocks are only compiled, because they need a GPU."""


def executed() -> list[Any]:
    """The pages with Python blocks or commands to run, those that train marked slow."""
    having = [page for page in PAGES if any(block.language == "python" for block in pages.blocks(page))]
    having += [page for page in SETTINGS if page not in having]
    return [
        pytest.param(page, marks=[] if page in QUICK else [pytest.mark.slow])
        for page in sorted(having)
        if page not in ELSEWHERE
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", executed())
def test_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RLOPT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    d4rl_files.write_file(
        tmp_path / "hopper_medium-v2.hdf5", d4rl_files.gym_arrays(600, timeouts=tuple(range(99, 600, 100)))
    )
    with modules_of(tmp_path):
        printed = pages.run_page(page, **SETTINGS.get(page, {}))
    assert printed.python or printed.commands or page in ON_A_GPU


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Forgets afterwards the modules that a page wrote into ``folder``, and their agents."""
    before, agents = set(sys.modules), dict(AGENTS)
    try:
        yield
    finally:
        for name in AGENTS.keys() - agents.keys():
            del AGENTS[name]
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def test_the_pages_that_are_executed_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert page in PAGES
        text = (ROOT / test).read_text()
        assert Path(page).name in text and ("exec(" in text or "run_page(" in text), test


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_is_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with modules_of(tmp_path):
        for block in pages.blocks(page):
            pages.write_file(block)
            for command in pages.commands(block):
                pages.understand(command, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_and_script_of_the_page_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    code = [block.text for block in pages.blocks(page) if block.language in pages.SHELLS]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in "\n".join([*code, *spans]).splitlines():
        if target := re.match(r"make ([a-z][\w-]*)", line):
            assert re.search(rf"^{target[1]}:", makefile, flags=re.MULTILINE), line
        for script in re.findall(r"python (scripts/\w+\.py)", line):
            assert (ROOT / script).is_file(), line


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlopt.errors import ConfigError

    for wrong in (
        "rlopt train mdpo --env CartPole-v1 --stepsize 3",
        "rlopt sweep --agent mdpo --env CartPole-v1 --seedz 0..3",
        "rlopt evaluate RUN --episode 3",
        "rlopt data augment a b --guides x",
        "rlopt train mdpo|sqill --env CartPole-v1",
        "rlopt tune --agent mdpo --env Hopper-v5 --search step_size=0.05,,1..x",
    ):
        with pytest.raises(ConfigError):
            pages.understand(wrong, monkeypatch)


def test_blocks_and_commands_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    text = "a\n\n    rlopt plot A \\\n        B\n\nb\n```python\nprint(1)  # 1\n```\n\n"
    text += "```console\n$ rlopt doctor\nfine\n```\n"
    (tmp_path / "page.md").write_text(text)
    found = pages.blocks("page.md")
    assert [block.language for block in found] == ["", "python", "console"]
    assert [pages.commands(block) for block in found] == [["rlopt plot A      B"], [], ["rlopt doctor"]]
    assert pages.run_page("page.md").python == ["1\n"]
    (tmp_path / "page.md").write_text(text.replace("# 1", "# 2"))
    with pytest.raises(AssertionError, match="'2' is not in"):
        pages.run_page("page.md")
