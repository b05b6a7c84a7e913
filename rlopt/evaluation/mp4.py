"""MP4 files that every browser plays: H.264, yuv420p, even sizes, the index in front. Imports no torch."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.errors import ConfigError
from rlopt.storage.replacing import replacing


@contextmanager
def write_mp4(path: Path, fps: float) -> Iterator[Any]:
    """Yields a function that takes images uint8 [H, W, 3]; the file appears under its name once all are written.

    :raises ConfigError: the file system or ffmpeg refuses
    """
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    writer: Any = None

    def write(image: np.ndarray) -> None:
        nonlocal writer
        with _writing(path):
            if writer is None:
                writer = _open_writer(temporary, (image.shape[1], image.shape[0]), fps)
            writer.send(image)

    try:
        yield write
        with _writing(path):
            writer.close()
            os.replace(temporary, path)
    finally:
        if writer is not None:
            writer.close()
        with suppress(OSError):
            temporary.unlink()


def write_vp9(source: Path, path: Path) -> None:
    """Writes a video once more as VP9 in WebM, for browsers without H.264; it appears once it is whole.

    :raises ConfigError: the file system or ffmpeg refuses
    """
    import imageio_ffmpeg

    settings = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 36 -b:v 0 -pix_fmt yuv420p -an -f webm"
    with _writing(path), replacing(path, ConfigError, "use another folder") as place:
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-y",
            "-i",
            str(source),
            *settings.split(),
            str(place),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr or "ffmpeg failed")


def _open_writer(path: Path, size: tuple[int, int], fps: float) -> Any:
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    )
    writer.send(None)
    return writer


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the file system or ffmpeg refuses into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"the video {path} cannot be written: {' '.join(str(error).split())}") from None
