"""Draw the pictures of the README's first screen from a run: its learning curve as SVG, seconds of its video as GIF.

make quickstart
python scripts/readme_pictures.py runs/quickstart-... --video runs/quickstart-.../video.mp4
"""

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image
from reproduction import ROOT

from rlopt.analysis.plotting import plot_runs

CURVE, CLIP = ROOT / "docs" / "assets" / "quickstart.svg", ROOT / "docs" / "assets" / "quickstart.gif"
FRAMES_PER_SECOND, SECONDS, WIDTH, COLOURS = 12, 4, 240, 32
"""Of the GIF, which is to be a few hundred kilobytes."""


BADGES = {
    "python": ("python", "3.11 | 3.13", "#3776ab"),
    "licence": ("licence", "MIT", "#2e7d32"),
    "sb3": ("Stable-Baselines3", "2.9", "#0072b2"),
    "types": ("types", "mypy", "#455a64"),
}
"""File -> label, value, colour. They are files, so that no page fetches anything from elsewhere."""


def badge(label: str, value: str, colour: str) -> str:
    """A badge as SVG."""
    left, right = (round(6.6 * len(text)) + 12 for text in (label, value))
    style = 'y="14" fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle"'
    text = f'<text x="{{x}}" {style}>{{t}}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}"><rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        f"{text.format(x=left / 2, t=label)}{text.format(x=left + right / 2, t=value)}</svg>\n"
    )


def draw_clip(video: Path, out: Path) -> int:
    """Writes the seconds after the first one of a video as a GIF that repeats; returns its bytes."""
    rate = imageio.immeta(video, plugin="FFMPEG")["fps"]
    times = np.arange(FRAMES_PER_SECOND * SECONDS) / FRAMES_PER_SECOND + 1.0
    wanted = set((times * rate).round().astype(int).tolist())
    pictures = []
    for number, frame in enumerate(imageio.imiter(video, plugin="FFMPEG")):
        if number in wanted:
            picture = Image.fromarray(frame)
            size = (WIDTH, round(WIDTH * picture.height / picture.width))
            pictures.append(picture.resize(size).quantize(COLOURS))
        if number > max(wanted):
            break
    first, *others = pictures
    out.parent.mkdir(parents=True, exist_ok=True)
    first.save(out, save_all=True, append_images=others, duration=1000 // FRAMES_PER_SECOND, loop=0, optimize=True)
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, as make quickstart printed it")
    parser.add_argument("--video", type=Path, required=True, help="its video, as rlopt evaluate --video wrote it")
    arguments = parser.parse_args()
    for name, words in BADGES.items():
        CURVE.with_name(f"badge-{name}.svg").write_text(badge(*words))
    print(plot_runs([arguments.run], CURVE, key="rollout/ep_rew_mean", width=4.2))
    print(CLIP, f"{draw_clip(arguments.video, CLIP):,} bytes")


if __name__ == "__main__":
    main()
