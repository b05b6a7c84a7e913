"""Learning curves: what is read, how it is grouped and interpolated, and the pictures."""

import json
import struct
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlopt.analysis import plotting
from rlopt.analysis.comparison import compare_runs
from rlopt.analysis.curves import group_curves, read_run_curve, without_repeats
from rlopt.analysis.plotting import draw, plot_runs
from rlopt.errors import ConfigError, RunError, UnknownNameError
from rlopt.statistics.aggregates import bootstrap_interval, mean


def make_run(path: Path, rows: str, agent: str = "mdpo", env: str = "Hopper-v5", **settings: Any) -> Path:
    path.mkdir(parents=True)
    config = {"agent": agent, "run": {"env": env, "seed": 0, "preset": None}, "agent_config": settings}
    (path / "config.json").write_text(json.dumps(config))
    (path / "progress.csv").write_text(rows)
    return path


def line(path: Path, values: list[float], start: int = 100, **settings: Any) -> Path:
    rows = "\n".join(f"{start + 100 * index},{value}" for index, value in enumerate(values))
    return make_run(path, f"step,rollout/ep_rew_mean\n{rows}\n", **settings)


def test_a_curve_is_read_sorted_without_blanks_and_with_the_last_of_repeated_steps(tmp_path: Path) -> None:
    text = (
        "step,rollout/ep_rew_mean,train/loss\n200,,0.1\n300,3.0,0.1\n100,1.0,\n300,4.0,0.2\n"
        "400,nan,1\n500,inf,1\n600,5.5"  # the last row is cut off
    )
    curve = read_run_curve(make_run(tmp_path / "run", text, learning_rate=0.1))
    assert curve.x.tolist() == [100, 300, 600]
    assert curve.y.tolist() == [1.0, 4.0, 5.5]
    assert (curve.agent, curve.env, curve.settings["learning_rate"]) == ("mdpo", "Hopper-v5", 0.1)


def test_a_row_damaged_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    curve = read_run_curve(make_run(tmp_path / "run", "step,rollout/ep_rew_mean\n100,1\n200,2\n\0\0\0\n3\n"))
    assert curve.x.tolist() == [100, 200]


def test_other_columns_and_the_wall_clock(tmp_path: Path) -> None:
    text = "step,train/kl,time/time_elapsed\n100,0.5,2.5\n200,0.25,5\n"
    curve = read_run_curve(make_run(tmp_path / "run", text), key="train/kl", x="seconds")
    assert curve.x.tolist() == [2.5, 5.0]
    assert curve.y.tolist() == [0.5, 0.25]


def test_evaluations_are_averaged_by_step_counting_each_episode_once(tmp_path: Path) -> None:
    run = line(tmp_path / "run", [1.0])
    # the run was resumed: the evaluation at 200 stands twice
    text = "step,episode,return,length\n100,0,1,5\n100,1,3,5\n200,0,9,5\n200,1,9,5\n200,0,10,5\n200,1,20,5\n"
    (run / "evaluations.csv").write_text(text)
    curve = read_run_curve(run, key="evaluation")
    assert curve.x.tolist() == [100, 200]
    assert curve.y.tolist() == [2.0, 15.0]


def test_a_mean_that_changes_when_episodes_end_together_is_no_staircase(tmp_path: Path) -> None:
    curve = without_repeats(read_run_curve(line(tmp_path / "run", [1.0, 1.0, 3.0, 3.0, 2.0, 2.0])))
    assert (curve.x.tolist(), curve.y.tolist()) == ([100, 300, 500, 600], [1.0, 3.0, 2.0, 2.0])


def test_seeds_meet_on_a_common_grid_within_their_overlap(tmp_path: Path) -> None:
    first = line(tmp_path / "a", [0.0, 10.0, 20.0, 30.0], start=100)  # y = (x - 100) / 10, x in [100, 400]
    second = line(tmp_path / "b", [100.0, 110.0, 120.0], start=150)  # y = 100 + (x - 150) / 10, x in [150, 350]
    notes: list[str] = []
    curves = [read_run_curve(first), read_run_curve(second)]
    (group,) = group_curves(curves, statistic=mean, report=notes.append)
    assert (group.x[0], group.x[-1]) == (150, 350)
    # mean of (x - 100) / 10 and 100 + (x - 150) / 10
    assert group.center == pytest.approx((group.x - 100) / 20 + 50 + (group.x - 150) / 20)
    assert group.low == pytest.approx((group.x - 100) / 10)  # of two seeds, the band reaches from one to the other
    assert group.high == pytest.approx(100 + (group.x - 150) / 10)
    assert len(notes) == 1
    assert "up to 350 of 400" in notes[0]
    assert "b ends" in notes[0]


def test_the_band_is_the_bootstrap_interval_over_seeds(tmp_path: Path) -> None:
    ends = [3.0, 8.0, 1.0, 5.0, 9.0]
    runs = [line(tmp_path / str(index), [0.0, end]) for index, end in enumerate(ends)]
    (group,) = group_curves([read_run_curve(run) for run in runs], statistic=mean, confidence=0.8)
    interval = bootstrap_interval(ends, mean, confidence=0.8, n_resamples=20_000)
    assert group.low is not None
    assert group.high is not None
    assert group.center[-1] == pytest.approx(np.mean(ends))
    assert group.low[-1] == pytest.approx(interval.low, abs=0.25)
    assert group.high[-1] == pytest.approx(interval.high, abs=0.25)
    assert group.low[0] == group.high[0] == 0.0


def test_groups_by_agent_and_environment_or_by_a_setting(tmp_path: Path) -> None:
    runs = [
        line(tmp_path / "1", [1, 2], agent="mdpo", env="Hopper-v5", learning_rate=0.1),
        line(tmp_path / "2", [1, 2], agent="mdpo", env="Hopper-v5", learning_rate=0.2),
        line(tmp_path / "3", [1, 2], agent="ppo", env="Hopper-v5", learning_rate=0.1),
        line(tmp_path / "4", [1, 2], agent="mdpo", env="Ant-v5", learning_rate=0.1),
    ]
    curves = [read_run_curve(run) for run in runs]
    found = [(group.env, group.label, len(group.runs)) for group in group_curves(curves)]
    assert found == [("Ant-v5", "mdpo", 1), ("Hopper-v5", "mdpo", 2), ("Hopper-v5", "ppo", 1)]
    found = [(group.env, group.label, len(group.runs)) for group in group_curves(curves, by="learning-rate")]
    assert found == [
        ("Ant-v5", "learning_rate = 0.1", 1),
        ("Hopper-v5", "learning_rate = 0.1", 2),
        ("Hopper-v5", "learning_rate = 0.2", 1),
    ]


def test_a_png_has_the_curves_names_and_units(tmp_path: Path) -> None:
    runs = [line(tmp_path / str(index), [0.0, index + 1.0]) for index in range(3)]
    out = plot_runs(runs, tmp_path / "deep" / "curve.png")
    data = out.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 600
    assert height > 400
    assert [entry.name for entry in out.parent.iterdir()] == ["curve.png"]  # no temporary file is left


def test_a_svg_holds_the_same_for_the_same_runs(tmp_path: Path) -> None:
    runs = [line(tmp_path / "1", [0.0, 5.0]), line(tmp_path / "2", [0.0, 7.0], env="Ant-v5")]
    out = plot_runs(runs, tmp_path / "curve.svg")
    root = xml.etree.ElementTree.fromstring(out.read_text())
    assert root.tag.endswith("svg")
    assert "environment steps" in out.read_text()
    assert plot_runs(runs, tmp_path / "again.svg").read_bytes() == out.read_bytes()


def test_the_figure_names_axes_panels_and_lines(tmp_path: Path) -> None:
    runs = [
        line(tmp_path / "1", [0.0, 5.0]),
        line(tmp_path / "2", [0.0, 7.0]),
        line(tmp_path / "3", [1.0, 2.0], agent="ppo"),
        line(tmp_path / "4", [1.0, 2.0], agent="ppo", env="Ant-v5"),
    ]
    groups = group_curves([read_run_curve(run) for run in runs])
    figure = draw(groups, x_label="environment steps", y_label="episode return", band="IQM")
    ant, hopper = figure.axes
    assert (ant.get_title(loc="left"), hopper.get_title(loc="left")) == ("Ant-v5", "Hopper-v5")
    assert ant.get_xlabel() == hopper.get_xlabel() == "environment steps"
    assert ant.get_ylabel() == "episode return"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mdpo (2 runs)", "ppo (one run)"]
    assert len(hopper.collections) == 1  # a band for the two seeds, none for the single run
    colors = {drawn.get_label(): drawn.get_color() for drawn in hopper.get_lines()}
    assert colors["ppo"] == ant.get_lines()[0].get_color() != colors["mdpo"]


def test_pyplot_is_not_touched(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from rlopt.analysis.curves import GroupCurve;"
        "from rlopt.analysis.plotting import draw, save_figure;"
        "from pathlib import Path; assert 'matplotlib' not in sys.modules; x = np.arange(3.0);"
        "figure = draw([GroupCurve('e', 'a', (), x, x, None, None)], x_label='', y_label='', band='');"
        "save_figure(figure, Path(sys.argv[1])); print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.png")], capture_output=True, text=True)
    assert done.stdout.strip() == "False False", done.stderr


def test_missing_or_empty_logs_are_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "")
    for change, words in [
        (lambda: (run / "progress.csv").unlink(), "does not exist"),
        (lambda: (run / "progress.csv").write_text(""), "holds no rows"),
        (lambda: (run / "progress.csv").write_text("step,rollout/ep_rew_mean\n"), "holds no rows"),
        (lambda: (run / "progress.csv").write_text("step,rollout/ep_rew_mean\n100,\n"), "no finite value"),
        (lambda: (run / "progress.csv").write_text("step,time/fps\n100,5\n"), "no episode has ended yet"),
        (lambda: (run / "progress.csv").write_text("rollout/ep_rew_mean\n1\n"), "no column step"),
        (lambda: (run / "config.json").write_text("[]"), "damaged"),
        (lambda: (run / "config.json").write_text("{"), "cannot be read"),
        (lambda: (run / "config.json").unlink(), "config.json"),
    ]:
        change()
        with pytest.raises(RunError, match=words) as caught:
            plot_runs([run], tmp_path / "curve.png")
        assert "\n" not in str(caught.value)
        assert str(run) in str(caught.value)
    with pytest.raises(RunError, match="no such folder"):
        read_run_curve(tmp_path / "nowhere")
    assert not (tmp_path / "curve.png").exists()


def test_bad_arguments_name_the_nearest(tmp_path: Path) -> None:
    run, other = line(tmp_path / "1", [1.0, 2.0]), line(tmp_path / "2", [1.0, 2.0], start=5000)
    with pytest.raises(UnknownNameError, match="rollout/ep_rew_mean"):
        plot_runs([run], tmp_path / "c.png", key="rolout/ep_rew_mean")
    with pytest.raises(UnknownNameError, match="steps"):
        plot_runs([run], tmp_path / "c.png", x="step")
    with pytest.raises(UnknownNameError, match="preset"):
        plot_runs([run], tmp_path / "c.png", by="presets")
    with pytest.raises(ConfigError, match=r"\.png, \.svg or \.pdf"):
        plot_runs([run], tmp_path / "c.pgn")
    with pytest.raises(ConfigError, match="twice"):
        plot_runs([run, tmp_path / "2" / ".." / "1"], tmp_path / "c.png")
    with pytest.raises(ConfigError, match="overlap"):
        plot_runs([run, other], tmp_path / "c.png")
    with pytest.raises(ConfigError, match="no run"):
        plot_runs([], tmp_path / "c.png")


def test_a_single_point_can_be_drawn(tmp_path: Path) -> None:
    runs = [line(tmp_path / "1", [1.0]), line(tmp_path / "2", [2.0])]
    (group,) = group_curves([read_run_curve(run) for run in runs])
    assert group.x.tolist() == [100]
    assert group.center.tolist() == [1.5]
    assert plot_runs(runs, tmp_path / "c.png").stat().st_size > 1000


def test_unless_said_otherwise_a_picture_ranks_as_a_comparison_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training returns, of policies that explore, may have the opposite order of evaluations."""
    runs = []
    for agent, training, evaluated in (("mdpo", 2.0, 10.0), ("sac", 1.0, 20.0)):
        run = make_run(
            tmp_path / agent, f"step,rollout/ep_rew_mean\n100,{training}\n", agent=agent, total_timesteps=100
        )
        (run / "evaluations.csv").write_text(f"step,episode,return,length\n100,0,{evaluated},5\n")
        runs.append(run)
    drawn: dict[str, Any] = {}

    def spy(groups: Any, *, y_label: str, **labels: Any) -> Any:
        drawn.update(returns={group.label: float(group.center[-1]) for group in groups}, axis=y_label)
        return draw(groups, y_label=y_label, **labels)

    monkeypatch.setattr(plotting, "draw", spy)
    notes: list[str] = []
    plot_runs(runs, tmp_path / "curves.svg", report=notes.append)
    assert drawn == {"returns": {"mdpo": 10.0, "sac": 20.0}, "axis": "episode return (evaluation)"} and not notes
    assert [group.label for group in compare_runs(runs, reference="sac").groups] == ["sac", "mdpo"]

    (runs[0] / "evaluations.csv").unlink()
    plot_runs(runs, tmp_path / "curves.svg", report=notes.append)
    assert drawn == {"returns": {"mdpo": 2.0, "sac": 1.0}, "axis": "episode return (training)"}
    assert notes == [f"training returns are used for all: {runs[0]} has no evaluations"]
    comparison = compare_runs(runs, reference="mdpo")
    assert [group.label for group in comparison.groups] == ["mdpo", "sac"] and notes[0] in comparison.notes
