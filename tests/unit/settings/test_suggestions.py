"""Which name is suggested for one that does not exist: the one that was meant, or none."""

import gymnasium
import pytest

from rlopt.cli.main import main
from rlopt.data.names import D4RL_NAMES
from rlopt.envs import names
from rlopt.envs.tables import DM_CONTROL_TASKS
from rlopt.errors import ConfigError, UnknownNameError, nearest
from rlopt.registry import agent_names, agent_spec, resolve
from rlopt.settings.fields import field_types
from rlopt.settings.run import RunConfig

NONE = "there is none"


def options(agent: str) -> list[str]:
    settings = field_types(RunConfig) | field_types(resolve(agent_spec(agent).config))
    return [f"--{name}".replace("_", "-") for name in settings]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        # slips of the hand
        ("--gae-lamda", ["--gae-lambda"]),
        ("--total-timestep", ["--total-timesteps"]),
        ("--nenvs", ["--n-envs"]),
        ("--Batch_Size", ["--batch-size"]),
        # abbreviated, or with a word too many
        ("--timesteps", ["--total-timesteps"]),
        ("--lambda", ["--gae-lambda"]),
        ("--epochs", ["--n-epochs", "--n-value-epochs"]),
        ("--env-id", ["--env"]),
        # called so elsewhere
        ("--lr", ["--learning-rate"]),
        ("--num-envs", ["--n-envs"]),
        ("--log-dir", ["--run-dir"]),
        ("--save-freq", ["--checkpoint-every"]),
        # nothing of the kind here
        ("--clip-range", []),
        ("--vf-coef", []),
        ("--render", ["--fast-render"]),
        ("--buffer-size", []),
        ("--dataset", []),
        ("--size", []),
        ("--foo", []),
        ("--tau", []),
        ("--x", []),
    ],
)
def test_options(given: str, meant: list[str]) -> None:
    assert nearest(given, options("mdpo"), NONE) == suggestion(meant)


def suggestion(meant: list[str]) -> str:
    return f"did you mean {' or '.join(map(repr, meant))}?" if meant else NONE


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("HalfChetah-v5", "HalfCheetah-v5"),
        ("HalfChetah-v4", "HalfCheetah-v4"),
        ("halfcheetah", "HalfCheetah-v5"),
        ("Hopper-v1", "Hopper-v5"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("Pendulum", "Pendulum-v1"),
        ("cheetah-run", "dm_control/cheetah-run"),
        ("dmc/walker-walk", "dm_control/walker-walk"),
        ("dm_contol/walker-wlk", "dm_control/walker-walk"),
        ("mujoco/Hopper-v5", "Hopper-v5"),
        ("rlopt/RiverSwm-v0", "rlopt/RiverSwim-v0"),
        ("ALE/Pong-v5", None),
        ("PongNoFrameskip-v4", None),
        ("Breakout-v4", None),
        ("hopper-medium-v2", None),
        ("antmaze-umaze-v0", None),
        ("dm_control/walker-jump", None),
        ("minari:D4RL/pointmaze/umaze-v2", None),
        ("Swimming-v1", None),
        ("PointMaze", None),
        ("AntMaze_Umaze-v4", "AntMaze_UMaze-v4"),
    ],
)
def test_environments(given: str, meant: str | None) -> None:
    names.check_id("rlopt/Corridor-v0")
    with pytest.raises(UnknownNameError) as raised:
        names.check_id(given)
    assert ("did you mean" in str(raised.value)) == (meant is not None)
    assert meant is None or f"did you mean {meant!r}?" in str(raised.value)


def test_what_is_suggested_can_be_made() -> None:
    """Gymnasium keeps ids that it gave up, such as Hopper-v2, in its registry."""
    names.check_id("rlopt/Corridor-v0")
    for name in ("Hopper-v2", "Hopper-v3"):
        assert name in gymnasium.registry
        with pytest.raises(ConfigError, match=f"'{name}' was given up .*: take Hopper-v5"):
            names.check_id(name)
    for wrong in ("Hoper-v2", "Hoper-v3", "Reachr-v2"):
        with pytest.raises(UnknownNameError, match=r"did you mean '(Hopper|Reacher)-v5'\?"):
            names.check_id(wrong)


def test_names_of_data_sets_and_atari_are_told_what_they_are() -> None:
    with pytest.raises(UnknownNameError, match=r"it names a data set .* give --env, such as"):
        names.check_id("hopper-medium-v2")
    with pytest.raises(UnknownNameError, match="pip install ale-py, and write ale_py:ALE/Pong-v5"):
        names.check_id("ALE/Pong-v5")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("MDPO", ["mdpo"]), ("mdop", ["mdpo"]), ("td3bc", ["td3_bc"]), ("value-dice", ["value_dice"]),
        ("sqli", ["sqil"]), ("dqn", ["differential_dqn"]), ("muesli", []), ("cem", []), ("reinforce", []),
    ],
)  # fmt: skip
def test_agents(given: str, meant: list[str]) -> None:
    assert nearest(given, agent_names(), NONE) == suggestion(meant)


@pytest.mark.parametrize("given", ["TD3", "td3", "trpo", "a2c"])
def test_agents_of_stable_baselines3_are_no_slips_of_others(given: str) -> None:
    with pytest.raises(UnknownNameError, match="Stable-Baselines3 has it; rlopt train --help"):
        agent_spec(given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hoper-medium-v2", ["hopper-medium-v2"]), ("hopper-medium", ["hopper-medium-v2"]),
        ("halfcheetah-medium-v3", ["halfcheetah-medium-v2"]), ("maze2d-umaze-v0", ["maze2d-umaze-v1"]),
        ("hopper", []), ("swimmer-medium-v2", []), ("walker-walk", []),
    ],
)  # fmt: skip
def test_data_sets(given: str, meant: list[str]) -> None:
    assert nearest(given, D4RL_NAMES, NONE) == suggestion(meant)


def test_several_tasks_of_one_domain_are_all_named() -> None:
    known = [f"dm_control/{task}" for task in DM_CONTROL_TASKS]
    assert nearest("dm_control/walker", known) == (
        "did you mean 'dm_control/walker-run', 'dm_control/walker-stand' or 'dm_control/walker-walk'?"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train mdpo --env CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("train mdpo --env CartPole-v1 --no-compile", "unknown option '--no-compile': write --compile off"),
        ("tune --agent mdpo --env CartPole-v1 --search step_size=0.1..1 --set n_steps=8", "such as --n-steps 256"),
        ("export runs/nope --to onx", "did you mean 'onnx'?"),
        ("export runs/nope --to onnx", "runs/nope is not a run folder"),
        ("evaluate runs/nope", "runs/nope is not a run folder (there is no such folder)"),
        ("resume runs/nope", "runs/nope is not a run folder (it does not exist)"),
    ],
)
def test_a_slip_is_answered_before_anything_is_announced(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.out == ""
