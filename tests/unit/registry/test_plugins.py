"""Agents, environments and augmentations of other distributions, and classes that are named ``module:Class``."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import rlopt
from rlopt import registry
from rlopt.agents.guda.tasks import task_of
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.envs import names
from rlopt.errors import CheckpointError, ConfigError, PluginError, UnknownNameError
from rlopt.run_folder import RunFolder

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("name", group="agents", theirs="module:object")``: a distribution's metadata, as pip leaves them."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = dict(registry.AGENTS), set(sys.modules)

    def add(distribution: str, *, group: str = "agents", code: str = "", **points: str) -> None:
        folder = site / f"{distribution}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[rlopt.{group}]", *lines]) + "\n")
        if code:
            (site / f"{distribution}_code.py").write_text(code)
        forget()

    yield add
    forget()
    for name in registry.AGENTS.keys() - before[0].keys():
        del registry.AGENTS[name]
    for name in set(sys.modules) - before[1]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def forget() -> None:
    for cached in (registry._entry_points, registry._plugin_spec, names._register_namespace):
        cached.cache_clear()


SPEC = """
from rlopt.registry import AgentSpec
SPEC = AgentSpec("rlopt.agents.mdpo.config:MDPOConfig", "rlopt.agents.mdpo.on_policy:MDPO", "as MDPO")
def spec():
    return SPEC
"""


def test_an_entry_point_names_a_spec_a_function_or_a_class(install: Install) -> None:
    child = "from rlopt.agents.mdpo.on_policy import MDPO\nclass Child(MDPO):\n    'A child.'\n"
    install("one", code=SPEC, one="one_code:SPEC", two="one_code:spec")
    install("other", code=child, three="other_code:Child")
    assert [name for name in registry.agent_names() if name not in registry.AGENTS] == ["one", "three", "two"]
    assert "one_code" not in sys.modules and "other_code" not in sys.modules
    assert registry.agent_spec("one") is registry.agent_spec("two") and registry.agent_spec("one").summary == "as MDPO"
    spec = registry.agent_spec("three")
    assert (spec.algorithm, spec.config) == ("other_code:Child", "rlopt.agents.mdpo.config:MDPOConfig")
    assert registry.agent_name(registry.resolve(spec.algorithm)) == "three"
    with pytest.raises(UnknownNameError, match="did you mean 'three'"):
        registry.agent_spec("thre")


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ("bad_code:SPEC", "import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("bad_code:SPEC", "raise SystemExit(3)", "SystemExit: 3"),
        ("bad_code:GONE", "", "GONE"),
        ("bad_code:SPEC", "SPEC = 3", "TypeError"),
        ("bad_code:SPEC", "def SPEC():\n    return 3", "it gives a int, not an AgentSpec"),
        ("bad_code:SPEC", "class SPEC:\n    pass", "put rlopt.algorithms.resumable.Resumable before its base"),
        ("bad_code:SPEC", SPEC.replace("rlopt.agents.mdpo.config", "no_config_module"), "no_config_module"),
        ("this is no value", "", "cannot be loaded"),
    ],
)
def test_a_broken_plugin_is_one_line_and_leaves_the_others_whole(
    value: str, code: str, reason: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("bad", code=code or "pass", theirs=value)
    install("good", code=SPEC, fine="good_code:SPEC")
    assert main(["train", "theirs", "--env", "CartPole-v1"]) == 2
    error = capsys.readouterr().err
    assert "agent 'theirs' of bad 1.2 cannot be loaded" in error and reason in error and error.count("\n") == 1
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "unusable: agent 'theirs' of bad 1.2" in shown and "as MDPO (good 1.2)" in shown
    assert registry.agent_spec("fine").summary == "as MDPO"
    with pytest.raises(UnknownNameError, match="unknown algorithm class"):
        registry.agent_name(Path)


def test_a_name_that_two_distributions_claim_is_refused(install: Install) -> None:
    install("one", code=SPEC, theirs="one_code:SPEC", fine="one_code:SPEC")
    install("two", code=SPEC, theirs="two_code:SPEC", mdpo="two_code:SPEC")
    with pytest.raises(PluginError, match=r"'theirs' is claimed by one 1\.2 and two 1\.2: uninstall all but one"):
        registry.agent_spec("theirs")
    with pytest.raises(PluginError, match=r"'mdpo' is rlopt's own, and claimed by two 1\.2"):
        registry.agent_spec("mdpo")
    assert registry.agent_spec("fine") and registry.agent_spec("off_policy_mdpo")
    assert "one_code" in sys.modules and "two_code" not in sys.modules


def test_environments_are_registered_when_their_namespace_is_used(install: Install) -> None:
    code = """
import gymnasium
def add():
    assert "here/Pole-v0" not in gymnasium.registry, "registered twice"
    gymnasium.register("here/Pole-v0", "gymnasium.envs.classic_control:CartPoleEnv")
"""
    install("poles", group="envs", code=code, here="poles_code:add", rlopt="poles_code:add")
    install("broken", group="envs", code="1 / 0", there="broken_code")
    assert rlopt.make_env("Pendulum-v1").num_envs == 1 and "poles_code" not in sys.modules
    assert rlopt.make_env("here/Pole-v0", n_envs=2).num_envs == 2
    with pytest.raises(UnknownNameError, match="did you mean 'here/Pole-v0'"):
        names.register("here/Pole-v1")
    with pytest.raises(PluginError, match=r"env 'there' of broken 1\.2 cannot be loaded \(ZeroDivisionError"):
        names.register("there/Pole-v0")
    with pytest.raises(PluginError, match="'rlopt' is rlopt's own"):
        names.register("rlopt/RiverSwim-v0")


def test_augmentation_domains(install: Install) -> None:
    code = "from rlopt.agents.guda.tasks import TASKS\nTASK = TASKS['ball']\nOTHER = 3"
    install("plane", group="augmentations", code=code, theirs="plane_code:TASK", no="plane_code:OTHER")
    assert task_of("theirs") is task_of("ball")
    with pytest.raises(PluginError, match=r"'no' of plane 1\.2 is not a Task"):
        task_of("no")
    with pytest.raises(UnknownNameError, match="did you mean 'parking'"):
        task_of("parkin")


# ---- module:Class


CLASS = """
from rlopt.agents.mdpo.on_policy import MDPO

class Mine(MDPO):
    '''MDPO as I like it.'''

class Bare:
    pass

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> Path:
    """A working directory with a module of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    (tmp_path / "my_module.py").write_text(CLASS)
    return tmp_path


TRAIN = "--env CartPole-v1 --n-steps 64 --eval-every 0 --total-timesteps"


def test_a_class_is_trained_resumed_and_evaluated_by_its_name(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "my_module:Mine"
    constant = "--step-size-schedule constant --learning-rate-schedule constant"  # of runs of different lengths
    assert main(f"train {name} {TRAIN} 256 {constant} --run-dir whole".split()) == 0
    assert main(f"train {name} {TRAIN} 128 {constant} --run-dir part".split()) == 0
    assert registry.agent_spec(name).summary == "MDPO as I like it"
    assert json.loads((mine / "part/config.json").read_text())["agent"] == name
    assert RunFolder(Path("part")).command == f"rlopt resume part --agent {name}"

    del registry.AGENTS[name]  # as in another process
    capsys.readouterr()
    for command in ("resume part --total-timesteps 256", "evaluate part --episodes 1"):
        assert main(command.split()) == 2
        error = capsys.readouterr().err
        assert f"files import no class: name it, --agent {name}" in error and error.count("\n") == 1
    with pytest.raises(CheckpointError, match="files import no class"):
        rlopt.load("part")
    assert main(f"resume part --total-timesteps 256 --agent {name}".split()) == 0
    del registry.AGENTS[name]
    assert main(f"evaluate part --episodes 1 --agent {name}".split()) == 0
    for one, other in zip(*(networks(mine / run) for run in ("whole", "part")), strict=True):
        np.testing.assert_array_equal(one, other)
    assert type(rlopt.load("part")).__name__ == "Mine"
    assert main(f"sweep --agent {name} {TRAIN} 64 --sweep-dir sweep --dry-run".split()) == 0


def networks(run: Path) -> list[np.ndarray]:
    trees = read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees
    return [tensor.numpy() for tensor in trees["networks"]["modules"]["policy"].values()]


def test_a_file_that_names_a_class_does_not_have_it_imported(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "sweep.yaml").write_text("agent: my_module:Mine\nenv: CartPole-v1\n")
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 2
    assert "files import no class" in capsys.readouterr().err and "my_module" not in sys.modules
    assert main(["sweep", "sweep.yaml", "--dry-run", "--agent", "my_module:Mine"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mine", "'no_such_module' cannot be imported: install it, correct its name, or run where"),
        ("my_module:Gone", "has no attribute 'Gone'"),
        ("my_module:number", "is not a class"),
        ("my_module:Bare", "put rlopt.algorithms.resumable.Resumable before its base"),
        ("my module:Bare", "write a name of rlopt train --help, or module:Class"),
        ("my_module:Mine()", "write a name of rlopt train --help, or module:Class"),
    ],
)
def test_names_that_are_no_agents(name: str, message: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--env", "CartPole-v1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_registered_class_is_known_to_its_process(install: Install) -> None:
    class Local(rlopt.MDPO):
        pass

    name = registry.register(rlopt.MDPO)
    assert registry.agent_spec(name) == registry.spec_of(rlopt.MDPO)
    with pytest.raises(ConfigError, match="inside a function"):
        registry.register(Local)


def test_help_imports_neither_torch_nor_plugins(install: Install, tmp_path: Path) -> None:
    install("bad", code="raise SystemExit('imported')", theirs="bad_code:SPEC")
    code = "import sys\nfrom rlopt.cli.main import main\nmain(['--help'])\n"
    code += "from rlopt.registry import agent_names, agent_spec\nassert 'theirs' in agent_names()\n"
    code += "agent_spec('off_policy_mdpo')\nassert not {'torch', 'bad_code', 'pytest'} & set(sys.modules)\n"
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}:{Path(rlopt.__file__).resolve().parents[1]}"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
