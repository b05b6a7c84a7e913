"""The check of words: it finds a private word with its line, and lets words of the field that look alike pass."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_vocabulary.py"


def check(page: Path, text: str) -> tuple[int, str]:
    page.write_text(text)
    done = subprocess.run([sys.executable, str(SCRIPT), str(page)], capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\nthe slow copy moves\n", ":2: 'slow copy': write target network"),
        ("drawn from the stationary law", "'law': write distribution"),
        ("stop = StopWish()", "'StopWish': write request"),
        ("from x import write_sealed", "'_sealed': write checked"),
        ("self.desk = Desk(store)", "'Desk': write RaterSession"),
    ],
)
def test_a_private_word_is_found(tmp_path: Path, text: str, said: str) -> None:
    code, told = check(tmp_path / "page.md", text)
    assert code == 1 and said in told


@pytest.mark.parametrize(
    "text", ["a flawed clause, the claws", 'state["laws"]', "nn.Hardswish", "a request to stop", "a checked folder"]
)
def test_words_that_look_alike_pass(tmp_path: Path, text: str) -> None:
    assert check(tmp_path / "page.md", text)[0] == 0
