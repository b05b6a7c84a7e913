"""What the shell is told may follow."""

import shutil
import subprocess

import pytest

from rlopt.cli.completion import candidates
from rlopt.cli.main import VERBS, main


def test_each_place_has_its_names() -> None:
    assert candidates(["ev"]) == ["evaluate"] and set(candidates([""])) == set(VERBS)
    assert candidates(["train", "off"]) == ["off_policy_mdpo"]
    assert candidates(["train", "mdpo", "--preset", "mujoco/h"]) == ["mujoco/half_cheetah", "mujoco/hopper"]
    assert candidates(["train", "mdpo", "--env", "HalfC"]) == ["HalfCheetah-v5"]
    assert candidates(["train", "mdpo", "--learning-rate"]) == [
        "--learning-rate", "--learning-rate-floor", "--learning-rate-schedule", "--learning-rate-warmup"
    ]  # fmt: skip
    assert candidates(["hub", "pu"]) == ["pull", "push"]
    assert candidates(["hub", "push", "run", "--p"]) == ["--private"]
    assert candidates(["evaluate", "run", "--max"]) == ["--max-episode-steps"]
    assert candidates(["evaluate", "ru"]) == candidates(["nothing", "x"]) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_the_script(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capfd.readouterr().out
    typed = "COMP_WORDS=(rlopt train md); COMP_CWORD=2; _rlopt; echo ${COMPREPLY[0]}"
    command = f"{script}\nrlopt() {{ shift 2; printf '%s ' \"$@\"; }}\n{typed}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout.strip() == "train md"
    assert main(["completion", "bahs"]) == 2
    assert "'bash'" in capfd.readouterr().err
