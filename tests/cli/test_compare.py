"""``rlopt compare``: the table, the pictures, the CSV files, and one line for each mistake."""

import csv
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from scored_runs import scored_run, scored_runs

from rlopt.cli.main import main
from rlopt.statistics.aggregates import bootstrap_interval, iqm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with five runs of mdpo and four of ppo, and one group of three seeds."""
    monkeypatch.chdir(tmp_path)
    scored_runs(tmp_path / "runs", "mdpo", [3.0, 8.0, 1.0, 5.0, 9.0])
    scored_runs(tmp_path / "runs", "ppo", [2.0, 4.0, 6.0, 3.5], agent="ppo")
    for seed in range(3):
        scored_run(tmp_path / "runs" / "group" / f"seed{seed}", [0.0, 0.0, 10.0 + seed], seed=seed, agent="sac")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_patterns_and_groups_of_seeds_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/ppo-*", "runs/mdpo-0", "runs/mdpo-[1-4]", "runs/group"]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = printed[2:6]
    assert [line.split()[0] for line in table[1:]] == ["ppo", "sac", "mdpo"]  # the reference, then by score
    assert table[0].split()[:4] == ["IQM", "95%", "interval", "P(better)"]
    low, high = bootstrap_interval([2.0, 4.0, 6.0, 3.5])
    # the greatest number, 12, has two digits before the point, so all have one after it
    assert " ".join(table[1].split()) == f"ppo 3.8 [{low:.1f}, {high:.1f}] 4 300 reference"
    assert " ".join(table[2].split()).startswith("sac 11.0 [10.0, 12.0] 1.00 [1.00, 1.00] 3 300 4")
    assert "mean return of the last evaluation of each run, not of its best" in printed[0]
    assert "picture: comparison.png (or --out FILE)" in printed
    assert Path("comparison.png").read_bytes().startswith(b"\x89PNG")


def test_everything_from_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/*", "--out", "deep/c.svg", "--out", "deep/c.csv", "--confidence", "0.9"]) == 0
    assert "90% interval" in capsys.readouterr().out
    assert xml.etree.ElementTree.parse("deep/c.svg").getroot().tag.endswith("svg")
    names = ["c-curves.csv", "c-profiles.csv", "c-scores.csv", "c.csv", "c.svg"]
    assert sorted(entry.name for entry in Path("deep").iterdir()) == names
    assert not Path("comparison.png").exists()
    table = {row["group"]: row for row in rows("deep/c.csv")}
    scores = {"mdpo": [3.0, 8.0, 1.0, 5.0, 9.0], "ppo": [2.0, 4.0, 6.0, 3.5], "sac": [10.0, 11.0, 12.0]}
    for group, values in scores.items():
        assert float(table[group]["iqm"]) == pytest.approx(iqm(values))
        assert float(table[group]["iqm_low"]) == bootstrap_interval(values, confidence=0.9).low
        found = [float(row["score"]) for row in rows("deep/c-scores.csv") if row["group"] == group]
        assert found == values
        curve = [row for row in rows("deep/c-curves.csv") if row["group"] == group]
        assert (float(curve[0]["step"]), float(curve[-1]["step"])) == (100, 300)
        assert float(curve[-1]["iqm"]) == pytest.approx(iqm(values))
        profile = [float(row["share"]) for row in rows("deep/c-profiles.csv") if row["group"] == group]
        assert (profile[0], profile[-1]) == (1, 0) and profile == sorted(profile, reverse=True)
    assert (table["ppo"]["improvement"], table["sac"]["improvement"]) == ("0.0", "")  # sac is the first
    assert table["mdpo"]["least_seeds"] == "5" and table["mdpo"]["confidence"] == "0.9"


def test_the_same_runs_give_the_same_files(folder: Path) -> None:
    for name in ("a", "b"):
        assert main(["compare", "runs/mdpo-*", "runs/ppo-*", "--out", f"{name}.svg", "--out", f"{name}.csv"]) == 0
    for suffix in (".csv", "-curves.csv", "-profiles.csv", "-scores.csv"):
        assert Path(f"a{suffix}").read_bytes() == Path(f"b{suffix}").read_bytes()


def test_several_tasks_with_references(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored_runs(folder / "ant", "mdpo", [30.0, 80.0], env="Ant-v5")
    scored_runs(folder / "ant", "ppo", [20.0, 40.0], env="Ant-v5", agent="ppo")
    Path("s.json").write_text(json.dumps({task: {"random": 0, "expert": 100} for task in ("Ant-v5", "Hopper-v5")}))
    line = [
        "compare",
        "runs/mdpo-*",
        "runs/ppo-*",
        "ant/*",
        "--mix-tasks",
        "--normalize",
        "s.json",
        "--reference",
        "ppo",
    ]
    assert main([*line, "--out", "c.csv", "--out", "c.png"]) == 0
    printed = capsys.readouterr().out
    assert "0 is the low and 1 the high reference of s.json" in printed
    assert [row["group"] for row in rows("c.csv")] == ["ppo", "mdpo"]
    assert float(rows("c.csv")[1]["optimality_gap"]) == pytest.approx(1 - (0.052 + 0.55) / 2)
    ant = [row for row in rows("c-scores.csv") if row["task"] == "Ant-v5"]
    assert {(row["score"], row["normalised"]) for row in ant if row["group"] == "mdpo"} == {
        ("30.0", "0.3"),
        ("80.0", "0.8"),
    }
    assert {row["task"] for row in rows("c-curves.csv")} == {"Ant-v5", "Hopper-v5", "all tasks, normalised"}


def test_a_single_group_is_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/group"]) == 0
    printed = capsys.readouterr().out
    assert "sac  11.0  [10.0, 12.0]      3    300" in printed
    assert "P(better)" not in printed and "claim" not in printed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compare", "RUN"),
        ("compare runs/nowhere", "no such folder"),
        ("compare runs/notes", "not a run folder"),
        ("compare 'nothing-*'", "matches no run folder"),
        ("compare runs/mdpo-0 runs/mdpo-0", "given twice"),
        ("compare runs/* --by kl_coef", "setting to group by"),
        ("compare runs/* --refrence ppo", "did you mean '--reference'?"),
        ("compare runs/* --reference pp", "did you mean 'ppo'?"),
        ("compare runs/* --key evalution", "did you mean 'evaluation'?"),
        ("compare runs/* --confidence 95", "--confidence"),
        ("compare runs/* --out c.gif", ".png, .svg or .pdf, or a table, .csv"),
        ("compare runs/* --out runs/mdpo-0/config.json/c.png", "cannot be written"),
        ("compare runs/* --out runs/mdpo-0/config.json/c.csv", "cannot be written"),
        ("compare runs/* --normalise mean", "min-max"),
        ("compare runs/* --mix-task", "did you mean '--mix-tasks'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    for config in folder.rglob("config.json"):
        config.with_name("progress.csv").write_text("step,rollout/ep_rew_mean\n300,1\n")
    assert main(line.replace("'", "").split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("rlopt: error: ")
    assert words in error
    assert not list(folder.rglob(".writing-*"))


def test_plot_takes_patterns_and_several_fields_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plot", "runs/mdpo-*", "runs/p*", "--key", "evaluation", "--by", "agent,learning-rate", "--out", "p.svg"]
    assert main(line) == 0
    assert capsys.readouterr().out.strip() == "p.svg"
    assert main(["plot", "runs/none-*"]) == 2
    assert "runs/none-* matches no run folder" in capsys.readouterr().err


def test_comparing_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from rlopt.cli.main import main; assert main(['compare', 'runs/group']) == 0;"
        "print({'torch', 'matplotlib.pyplot'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "light", done.stderr
