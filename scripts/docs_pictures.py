"""Draw the pictures of the guides by the commands that the guides show, in docs/assets/.

python scripts/docs_pictures.py                 # all; trains for some minutes
python scripts/docs_pictures.py feedback        # a screenshot; needs Chromium
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from reproduction import ROOT

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from pages import blocks, commands
from ranking_page import clips, press

ASSETS = ROOT / "docs" / "assets"
STUDY = ["train", "zo_ranksgd", "--env", "Pendulum-v1", "--oracle", "human", "--total-timesteps", "20000"]
RLOPT = [sys.executable, "-m", "rlopt"]


def shown(page: str, *verbs: str) -> list[list[str]]:
    """The arguments of a page's ``rlopt`` commands with these verbs."""
    found = [shlex.split(command)[1:] for block in blocks(page) for command in commands(block)]
    return [arguments for arguments in found if arguments[0] in verbs]


def run(folder: Path, *arguments: str) -> None:
    print("rlopt", *arguments, flush=True)
    subprocess.run([*RLOPT, *arguments], cwd=folder, check=True)


def tutorial(folder: Path) -> None:
    """The learning curve of the first run, and the comparison of the two step sizes."""
    trainings, [comparison] = shown("docs/tutorial.md", "train"), shown("docs/tutorial.md", "compare")
    [plot] = shown("docs/tutorial.md", "plot")
    run(folder, *trainings[0])
    run(folder, *plot, "--out", str(ASSETS / "tutorial_curve.svg"), "--width", "5")
    for training in trainings[1:]:
        run(folder, *training)
    run(folder, *comparison, "--out", str(ASSETS / "tutorial_compare.svg"), "--width", "7")


def comparing(folder: Path) -> None:
    """The comparison with which the page begins."""
    for training in shown("docs/comparing.md", "train")[:2]:
        run(folder, *training)
    run(folder, *shown("docs/comparing.md", "compare")[0], "--out", str(ASSETS / "comparing.svg"), "--width", "7")


def feedback(folder: Path) -> None:
    """The page of a study in which two of the clips have their places."""
    study = [*RLOPT, *STUDY, "--instructions", "The pendulum should stand up and stay there."]
    study += ["--run-dir", str(folder / "study")]
    with subprocess.Popen(study, stdout=subprocess.PIPE, text=True) as trainer, sync_playwright() as playwright:
        try:
            assert trainer.stdout is not None
            link = next(found[0] for line in trainer.stdout if (found := re.search(r"http://\S+", line)))
            # Without a sandbox, because containers run as root; only our own page is opened.
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 760})
            page.set_default_timeout(300_000)  # milliseconds, for the first clips are drawn meanwhile
            page.goto(link)
            page.get_by_role("button").click()
            clips(page)
            press(page, "2 3")
            page.wait_for_timeout(1500)
            page.screenshot(path=ASSETS / "feedback.png")
            browser.close()
        finally:
            trainer.terminate()


PAGES = {"tutorial": tutorial, "comparing": comparing, "feedback": feedback}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"default: {' '.join(PAGES)}")
    for name in parser.parse_args().pages or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            PAGES[name](Path(folder))


if __name__ == "__main__":
    main()
