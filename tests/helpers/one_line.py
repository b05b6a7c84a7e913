"""What a person is told where a command is refused."""

import pytest

from rlopt.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line on stderr of a command that is refused; nothing else is printed."""
    capsys.readouterr()
    assert main(list(command)) == 2
    printed = capsys.readouterr()
    (said,) = printed.err.splitlines()
    assert said.startswith("rlopt: error: ") and printed.out == ""
    return said
