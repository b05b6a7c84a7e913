"""Draw the tables of docs/results as pictures: a panel for each row, a dot and its interval for each contestant.

The numbers are read from the pages, so that a picture shows what its table says. It lies beside the page, below the
table, as <page>.svg; tables without a run have none. The scripts of PICTURES draw their own, from the runs. Whatever
writes a page draws its pictures too, so this is needed only if a picture is to look otherwise:

    python scripts/draw_results.py              # all pages of docs/results
    python scripts/draw_results.py offline
"""

import argparse
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from reproduction import PAGES as FOLDER

from rlopt.analysis.plotting import line_style, save_figure, styled

PICTURES = {
    "ailboost": "reproduce_ailboost",
    "loop": "reproduce_loop",
    "searches": "benchmark_searches",
    "zo_ranksgd": "benchmark_rankings",
    "time_to_solve": "benchmark_time_to_solve",
}
"""Pages whose own scripts draw them when they write them."""
METHOD_COLUMNS = ("method", "optimiser")
TASK_COLUMNS = ("task", "data", "maze, recorded transitions", "learner", "preference")
"""What names a panel."""
COLUMNS = 3
_CELL = re.compile(r"(-?[\d,.]+)(?: \[(-?[\d,.]+), (-?[\d,.]+)\]| \+- ([\d,.]+))?(?: .*)?")
_SCORE = re.compile(r"-?[\d,.]+ (?:\[-?[\d,.]+, -?[\d,.]+\]|\(\d+ of \d+ seeds\))")
_PUBLISHED = re.compile(r"-?[\d,.]+ \+- ")
BLOCK = re.compile(r"<!-- results (\w+) -->\n(.*?)<!-- /results \1 -->\n", re.S)
_PICTURE = re.compile(r"\n!\[The table above[^\n]*\n")


@dataclass(frozen=True)
class Dot:
    """What one contestant reached."""

    name: str
    value: float
    low: float
    high: float


def panels_of(block: str) -> dict[str, list[Dot]]:
    """The contestants of each panel of the first table of a block that has runs; empty without one.

    Contestants are the rows where a column names them, else the columns with scores, but for differences of columns.
    """
    table = next((part for part in block.split("\n\n") if part[:1] == "|" and _SCORE.search(part)), "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    if len(rows) < 3:
        return {}
    header, _, *body = rows
    numbers = [
        place
        for place in range(len(header))
        if " - " not in header[place] and any(_SCORE.match(row[place]) or _PUBLISHED.match(row[place]) for row in body)
    ]
    if not numbers:
        return {}
    method = next((place for place, name in enumerate(header) if name in METHOD_COLUMNS), None)
    labels = [place for place in range(numbers[0]) if header[place] in TASK_COLUMNS]
    found: dict[str, list[Dot]] = {}
    for row in body:
        group = ", ".join(row[place] for place in labels)
        for place in numbers:
            dot = _dot(header[place] if method is None else row[method], row[place])
            title = group if method is None else ", ".join(part for part in (group, header[place]) if part)
            if dot is not None:
                found.setdefault(title, []).append(dot)
    return found


def _dot(name: str, cell: str) -> Dot | None:
    match = _CELL.fullmatch(cell)
    if match is None:
        return None
    value, low, high, deviation = (None if part is None else float(part.replace(",", "")) for part in match.groups())
    assert value is not None
    spread = deviation or 0.0
    return Dot(name, value, value - spread if low is None else low, value + spread if high is None else high)


def draw(panels: dict[str, list[Dot]], out: Path) -> None:
    """Writes the picture; a contestant has its colour in all panels."""
    names = list(dict.fromkeys(dot.name for dots in panels.values() for dot in dots))
    columns = 2 if len(panels) == 4 else min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with styled(None):
        size = (3.6 * columns, rows * (0.26 * len(names) + 0.8))
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for panel in list(axes.flat)[len(panels) :]:
            panel.set_visible(False)
        for panel, (title, dots) in zip(axes.flat, panels.items(), strict=False):
            for dot in dots:
                color, place = line_style(names.index(dot.name))[0], len(names) - names.index(dot.name)
                panel.plot([dot.low, dot.high], [place, place], color=color, linewidth=2)
                panel.plot(dot.value, place, "o", color=color, markersize=5)
            panel.set_title(title, fontsize=9, loc="left")
            panel.set_yticks(range(len(names), 0, -1), names, fontsize=8)
            panel.tick_params(axis="x", labelsize=8)
            panel.set_ylim(0.4, len(names) + 0.6)
            panel.grid(True, axis="x", color="#e3e3e3", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
        save_figure(figure, out)


def write(path: Path) -> list[Path]:
    """Draws the tables of a page and puts the pictures below them; returns the pictures."""
    text, drawn = _PICTURE.sub("", path.read_text()), list[Path]()
    for match in list(BLOCK.finditer(text)):
        panels = panels_of(match[2])
        if panels:
            out = path.with_name(f"{path.stem}.svg" if not drawn else f"{path.stem}_{match[1]}.svg")
            draw(panels, out)
            drawn.append(out)
            note = f"\n![The table above as a picture, drawn by scripts/draw_results.py]({out.name})\n"
            text = text.replace(match[0], match[0] + note)
    path.write_text(text)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="default: all")
    for page in parser.parse_args().pages or sorted(path.stem for path in FOLDER.glob("*.md")):
        if page in PICTURES:
            script = Path(__file__).with_name(f"{PICTURES[page]}.py")
            subprocess.run([sys.executable, str(script), "write"], check=True, stdout=subprocess.DEVNULL)
        print(page, *(write(FOLDER / f"{page}.md") if page not in PICTURES else [FOLDER / f"{page}.svg"]))


if __name__ == "__main__":
    main()
