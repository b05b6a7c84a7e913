"""Settings: reading values by type, ranges, presets, and the merge of defaults, preset and flags."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest

from rlopt.cli.flags import field_help, parse_training, read_flags
from rlopt.errors import ConfigError, UnknownNameError
from rlopt.registry import AGENTS, agent_spec, resolve
from rlopt.settings import presets
from rlopt.settings.fields import (
    OR_SCHEDULE,
    AgentConfig,
    Range,
    Text,
    check_arguments,
    check_setting,
    check_settings,
    coerce,
    field_types,
    from_mapping,
)
from rlopt.settings.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A toy agent."""

    learning_rate: Annotated[float, Range(gt=0)] = 3e-4
    """Step size, > 0, which is
    explained on two lines."""
    layers: tuple[Annotated[int, Range(ge=1)], ...] = (64, 64)
    """Units."""
    ent_coef: float | Literal["auto"] = "auto"
    """Entropy weight."""
    batch_size: Annotated[int, Range(ge=1)] | None = None
    """Rows."""
    clip: bool = False
    """Whether to clip."""

    run_defaults: ClassVar[dict[str, Any]] = {"n_envs": 8}


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("3e-4", float, 0.0003),  # YAML reads 3e-4 as a text
        (1, float, 1.0),
        ("1e6", int, 1_000_000),
        (1e6, int, 1_000_000),
        ("9007199254740993", int, 9007199254740993),  # 2^53 + 1, which a float cannot hold
        ("true", bool, True),
        ([64, "64"], tuple[int, ...], (64, 64)),
        ("64, 32", tuple[int, ...], (64, 32)),
        (["a"], list[str], ["a"]),
        ("none", int | None, None),
        (None, str | None, None),
        ("5", int | None, 5),
        ("auto", float | Literal["auto"], "auto"),
        (True, Literal["auto", "on", "off"], "on"),  # YAML's on
        ("false", Literal["auto", "on", "off"], "off"),
        ("0.2", float | Literal["auto"], 0.2),
        (3, Annotated[float, Range(ge=0)], 3.0),
        ("runs/none-of", str | None, "runs/none-of"),
    ],
)
def test_coerce_reads_values_as_the_field_wants(value: Any, annotation: Any, expected: Any) -> None:
    read = coerce(value, annotation)
    assert read == expected and type(read) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("x", float),
        (True, float),
        (1.5, int),
        ("inf", int),
        ("nan", int),
        (True, int),
        ("maybe", bool),
        (3, str),
        (None, int),
        ("atuo", float | Literal["auto"]),
        (["1", "x"], tuple[int, ...]),
        ([1, 2, 3], tuple[int, int]),
    ],
)
def test_coerce_refuses_what_does_not_fit(value: Any, annotation: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(value, annotation)
    assert "\n" not in str(caught.value)


def test_choice_error_names_the_nearest_choice() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'envpool'"):
        coerce("envpol", Literal["auto", "envpool", "gymnasium"])


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Range(ge=0, le=1), [0.0, 0.5, 1.0], [-1e-9, 1.0001, float("nan")]),
        (Range(gt=0, lt=1), [0.5], [0.0, 1.0]),
        (Range(ge=1), [1, 10**9], [0, float("inf")]),
        (Range(gt=0, infinite=True), [1.0, float("inf")], [0.0, float("nan"), -float("inf")]),
    ],
)
def test_range(bounds: Range, inside: list[float], outside: list[float]) -> None:
    assert all(bounds.contains(value) for value in inside)
    assert not any(bounds.contains(value) for value in outside)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"layers": (64, 0)}, "layers = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_check_settings_names_setting_and_value(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_settings(ToyConfig(**settings))


def test_check_settings_accepts_what_has_no_number() -> None:
    config = ToyConfig(ent_coef="auto", batch_size=None)
    assert check_settings(config) is None


@dataclass(frozen=True, kw_only=True)
class PairConfig(AgentConfig):
    """Two that belong together."""

    rate: Annotated[float, Range(ge=0), OR_SCHEDULE] | None = 0.5
    low: int = 1
    high: int = 2
    start: Annotated[float, Range(ge=0)] | Annotated[str, Text(lambda text: text == "auto", "auto")] = "auto"

    @classmethod
    def check_together(cls, settings: Any) -> None:
        if settings["low"] > settings["high"]:
            raise ConfigError("low is above high: exchange them")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0),
        (np.float32(0.5), Annotated[float, Range(le=1)], 0.5),
        (np.int64(3), int, 3),
        (np.bool_(True), bool, True),
        (None, int | None, None),
        ([1, np.int32(2)], tuple[int, ...], (1, 2)),
        (float("inf"), Annotated[float, Range(gt=0, infinite=True)], float("inf")),
        (abs, Annotated[float, Range(gt=0), OR_SCHEDULE] | None, abs),
    ],
)
def test_values_of_python_that_fit(value: Any, annotation: Any, expected: Any) -> None:
    read = check_setting("x", value, annotation)
    assert read == expected and type(read) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "line"),
    [
        ("3e-4", float, "x = '3e-4' is not a number"),  # a text, which a flag would have read
        ("big", float, "x = big is not a number"),
        (True, float, "x = true is not a number"),
        (1.0, int, "x = 1.0 is not a whole number"),
        (np.float64(2), Annotated[float, Range(le=1)], "x = 2.0 is outside (-inf, 1]"),
        (float("nan"), float, "x = nan is outside (-inf, inf)"),
        (float("inf"), float, "x = inf is outside (-inf, inf)"),
        (10**400, float, f"x = 1{'0' * 199} is not a number"),
        (None, float, "x = none is not a number"),
        (1, bool, "x = 1 is not true or false"),
        (3, tuple[int, ...], "x = 3 is not a list"),
        (lambda progress: progress, float, None),
        (np.zeros(2), Literal["a", "b"], "x = array([0., 0.]) is not a choice: known: a, b"),
        ("auto_x", PairConfig.__annotations__["start"], None),
    ],
)
def test_values_of_python_that_do_not_fit(value: Any, annotation: Any, line: str | None) -> None:
    annotation = field_types(PairConfig)["start"] if isinstance(annotation, str) else annotation
    with pytest.raises(ConfigError) as caught:
        check_setting("x", value, annotation)
    assert line is None or str(caught.value) == line


def test_arguments_are_checked_one_by_one_and_together() -> None:
    given = {"rate": abs, "low": 2, "env": object(), "start": 0.1}
    assert check_arguments(PairConfig, given) == {"rate": abs, "low": 2, "start": 0.1}
    with pytest.raises(ConfigError, match=r"^rate = -1.0 is outside"):
        check_arguments(PairConfig, {"rate": -1})
    with pytest.raises(ConfigError, match=r"^start = atuo is not a number or auto$"):
        check_arguments(PairConfig, {"start": "atuo"})
    with pytest.raises(ConfigError, match=r"^low is above high"):
        check_arguments(PairConfig, {"low": 3})  # above the default of high
    with pytest.raises(ConfigError, match=r"^config.json: low is above high"):
        from_mapping(PairConfig, {"low": 3}, "config.json")


def test_from_mapping_names_the_nearest_setting_and_the_source() -> None:
    with pytest.raises(ConfigError, match=r"preset dmc/x: .*'learnin_rate'.*'learning_rate'"):
        from_mapping(ToyConfig, {"learnin_rate": 1}, "preset dmc/x")


def test_from_mapping_reads_back_what_asdict_gives() -> None:
    config = ToyConfig(layers=(8,), ent_coef=0.1, batch_size=32)
    as_json = {**dataclasses.asdict(config), "layers": [8]}
    assert from_mapping(ToyConfig, as_json, "config.json") == config


def test_flags_win_over_preset_and_preset_over_defaults(tmp_path: Any) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("env: Hopper-v5\nlearning_rate: 1e-3\nlayers: [32, 32]\nseed: 7\n")
    run, agent = parse_training("toy", ToyConfig, ["--preset", str(preset), "--seed", "9", "--layers", "16"])
    assert (run.env, run.seed, run.n_envs) == ("Hopper-v5", 9, 8)
    assert (agent.learning_rate, agent.layers, agent.clip) == (0.001, (16,), False)


def test_a_run_s_settings_are_a_preset(tmp_path: Any) -> None:
    config = resolve(agent_spec("mdpo").config)
    words = ["--env", "Hopper-v5", "--gamma", "0.98", "--total-timesteps", "5000", "--env-kwargs", '{"a": 1}']
    run, own = parse_training("mdpo", config, [*words, "--run-dir", "runs/first", "--net-arch", "8", "8"])
    content = {"agent": "mdpo", "run": dataclasses.asdict(run), "agent_config": dataclasses.asdict(own)}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    again, own_again = parse_training("mdpo", config, ["--preset", str(path), "--seed", "3"])
    assert own_again == own
    assert again == dataclasses.replace(run, seed=3, run_dir=None, preset=str(path))
    with pytest.raises(ConfigError, match="it is of mdpo: write rlopt train mdpo"):
        parse_training("sac", resolve(agent_spec("sac").config), ["--preset", str(path)])
    path.write_text("[]")
    with pytest.raises(ConfigError, match="is not a config"):
        parse_training("mdpo", config, ["--preset", str(path)])


def test_a_flag_equal_to_the_default_still_wins_over_the_preset(tmp_path: Any) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("env: Hopper-v5\nlearning_rate: 1e-3\nclip: true\n")
    run, agent = parse_training("toy", ToyConfig, [f"--preset={preset}", "--learning-rate", "3e-4", "--no-clip"])
    assert agent.learning_rate == 3e-4 and agent.clip is False and run.preset == str(preset)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--learning_rate", "1e-3"], {"learning_rate": 0.001}),
        (["--total-timesteps=1e6"], {"total_timesteps": 1_000_000}),
        (["--clip", "True"], {"clip": True}),
        (["--clip", "false"], {"clip": False}),
        (["--clip"], {"clip": True}),
        (["--no-clip"], {"clip": False}),
        (["--ent-coef", "auto"], {"ent_coef": "auto"}),
        (["--layers", "8", "4", "--seed", "1"], {"layers": (8, 4), "seed": 1}),
        (["--layers", "8,4"], {"layers": (8, 4)}),
        (["--ent-coef", "-0.5"], {"ent_coef": -0.5}),
        (["--seed", "1", "--seed", "2"], {"seed": 2}),
        (["--batch-size", "none"], {"batch_size": None}),
    ],
)
def test_flags_are_read_as_their_settings_want_them(argv: list[str], expected: dict[str, Any]) -> None:
    assert read_flags(argv, field_types(RunConfig) | field_types(ToyConfig), "rlopt train toy") == expected


def test_help_shows_each_setting_with_its_meaning_default_and_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_training("toy", ToyConfig, ["--help", "--what-is-this"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and shown.startswith("usage: rlopt train toy [options] A toy agent.")
    assert "--learning-rate FLOAT Step size, > 0, which is explained on two lines. (default: 0.0003; (0, inf))" in shown
    assert "--layers INT ... Units. (default: 64 64; [1, inf))" in shown
    assert "--ent-coef FLOAT|auto Entropy weight. (default: auto)" in shown
    assert "--clip, --no-clip Whether to clip. (default: false)" in shown
    assert "--n-envs INT Number of parallel environments. (default: 8; [1, inf))" in shown  # the agent's own default


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learnin-rate", "1"], "unknown option '--learnin-rate': did you mean '--learning-rate'"),
        (["--seed"], "--seed: a value is missing"),
        (["--seed", "1", "2"], "--seed: one value expected"),
        (["--seed", "x"], "seed = x is not a whole number"),
        (["--backend", "envpol"], "backend = envpol is not a choice: did you mean 'envpool'?"),
        (["Hopper-v5"], "unexpected argument 'Hopper-v5'"),
        (["--layers", "8", "big"], "layers = big is not a whole number"),
        (["--env", "x", "--seed", "-1"], "seed = -1 is outside"),
        (["--env", "x", "--num-threads", "100000"], "num_threads = 100000 is outside [0, 1024]"),
        (["--env", "x", "--learning-rate", "nan"], "learning_rate = nan is outside"),
        ([], "no environment given"),
    ],
)
def test_mistakes_in_flags_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_training("toy", ToyConfig, argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--net-arch", "0", "net_arch = 0 is outside [1, 65536]"),
        ("--net-arch", "64,-64", "net_arch = -64 is outside [1, 65536]"),
        ("--log-std-init", "nan", "log_std_init = nan is outside (-inf, inf)"),
        ("--log-std-init", "inf", "log_std_init = inf is outside (-inf, inf)"),
    ],
)
def test_network_settings_of_mdpo_have_ranges(flag: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_training("mdpo", resolve(AGENTS["mdpo"].config), ["--env", "x", flag, value])
    assert message in str(caught.value)


def test_multi_line_field_texts_become_one_paragraph() -> None:
    assert field_help(ToyConfig)["learning_rate"] == "Step size, > 0, which is explained on two lines."


@pytest.mark.parametrize("agent", AGENTS)
def test_settings_of_run_and_agent_do_not_collide_and_are_explained(agent: str) -> None:
    config = resolve(AGENTS[agent].config)
    assert not field_types(RunConfig).keys() & field_types(config).keys()
    for owner in (RunConfig, config):
        assert field_types(owner).keys() == field_help(owner).keys()
    check_settings(config())


def test_unknown_preset_names_the_nearest(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy" / "dmc").mkdir(parents=True)
    (tmp_path / "toy" / "dmc" / "cheetah-run.yaml").write_text("learning_rate: 1e-3\n")
    monkeypatch.setattr(presets, "files", lambda package: tmp_path)
    assert presets.preset_names("toy") == ["dmc/cheetah-run"]
    assert presets.load_preset("toy", "dmc/cheetah-run") == {"learning_rate": 0.001}
    with pytest.raises(UnknownNameError, match="did you mean 'dmc/cheetah-run'"):
        presets.load_preset("toy", "dmc/cheeta-run")
    with pytest.raises(UnknownNameError, match="other has no presets"):
        presets.load_preset("other", "dmc/cheetah-run")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "3: 4\n", "just words"])
def test_a_preset_that_is_no_flat_mapping_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="preset"):
        presets.load_preset("toy", str(path))


@pytest.mark.parametrize("agent", AGENTS)
def test_every_shipped_preset_is_valid(agent: str) -> None:
    config = resolve(AGENTS[agent].config)
    for name in presets.preset_names(agent):
        run, settings = presets.split_settings(presets.load_preset(agent, name), config, name)
        # What learns from data is evaluated in their environment, which is not in the preset.
        assert from_mapping(RunConfig, run, name).env or AGENTS[agent].completer
        assert isinstance(from_mapping(config, settings, name), config)


@pytest.mark.parametrize(("agent", "own", "other"), [("gail", "demos", "dataset"), ("bc", "dataset", "demos")])
def test_what_is_learned_from_has_two_names(agent: str, own: str, other: str) -> None:
    config = resolve(AGENTS[agent].config)
    assert presets.split_settings({other: "x"}, config, "flags")[1] == {own: "x"}
    words = [f"--{other}", "dmc/cartpole-swingup", "--eval-every", "0"]
    assert getattr(parse_training(agent, config, words)[1], own) == "dmc/cartpole-swingup"
    with pytest.raises(ConfigError, match="are one setting"):
        parse_training(agent, config, [*words, f"--{own}", "dmc/walker-walk"])
