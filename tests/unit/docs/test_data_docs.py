"""docs/data.md does what it says, and damaged data sets are refused."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlopt.cli import demos
from rlopt.data import load_demonstrations
from rlopt.data.formats.d4rl_conversion import D4RLOptions

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text()


def test_every_subverb_and_option_is_on_the_page() -> None:
    assert set(re.findall(r"^rlopt demos (\w+)", PAGE, flags=re.MULTILINE)) == set(demos.SUBVERBS)
    help_text = "".join(
        subprocess.run(
            [sys.executable, "-m", "rlopt.cli.main", *verbs, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for verbs in (
            ("data", "info"),
            ("data", "convert"),
            ("data", "filter"),
            ("demos", "record"),
            ("demos", "convert"),
        )
    )
    for option in set(re.findall(r"`?(--[a-z][a-z-]+)", PAGE)):
        assert option in help_text, option
    for option in D4RLOptions.__dataclass_fields__:
        assert f"--{option.replace('_', '-')}" in help_text


def test_the_conversion_of_a_pickle_gives_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = ("states", "actions", "next_states", "rewards")
    episodes = {name: [np.full((n, 2), float(n), np.float32) for n in (3, 4)] for name in columns}
    episodes["rewards"] = [[1.0] * n for n in (3, 4)]
    Path("expert.pkl").write_bytes(pickle.dumps({**episodes, "lengths": [3, 4]}))
    (script,) = re.findall(r"^python -c \"\n(.*?)^\"$", PAGE, flags=re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", script], check=True)
    data = load_demonstrations("expert.npz")
    assert data.episode_returns().tolist() == [3, 4] and data.observations[:, 0].tolist() == [3] * 3 + [4] * 4


def test_damaged_data_sets_are_refused_or_load_unharmed() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "fuzz_datasets.py"), "--cases", "100", "--seed", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "100 damaged data sets, 0 failures" in done.stdout
    refused = sum(int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("all "))
    assert refused >= 80
