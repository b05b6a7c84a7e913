"""``rlopt rank images`` on a saved pipeline of a package that stands in for diffusers."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlopt.agents.zo_ranksgd.latents.search import LatentSearch
from rlopt.cli.main import run_verb
from rlopt.errors import ConfigError, UnknownNameError
from tests.helpers.ranking_person import person_who_answers


class DDIMScheduler:
    config: dict[str, Any] = {}  # noqa: RUF012 - as diffusers has it


class Pipeline:
    """Images [n, 4, 4, 3] of latents [n, 2, 4, 4]: two colours mixed by weights that a file holds."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.scheduler, self.vae, self.weights = DDIMScheduler(), object(), weights
        self.unet = SimpleNamespace(config=SimpleNamespace(in_channels=2, sample_size=4), dtype=torch.float32)

    def to(self, device: str, dtype: torch.dtype) -> "Pipeline":
        return self

    def __call__(
        self, prompt: str = "", num_inference_steps: int = 5, num_images_per_prompt: int = 1, eta: float = 0.0,
        generator: Any = None, latents: Any = None, output_type: str = "pil",
    ) -> Any:  # fmt: skip
        return SimpleNamespace(images=torch.sigmoid(torch.einsum("nchw,cd->nhwd", latents, self.weights)).numpy())


class DiffusionPipeline:
    @classmethod
    def from_pretrained(cls, folder: str, **settings: Any) -> Pipeline:
        assert settings == {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        return Pipeline(load_file(Path(folder) / "weights.safetensors")["colours"])


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module: Any = ModuleType("diffusers")
    module.DiffusionPipeline = DiffusionPipeline
    monkeypatch.setitem(sys.modules, "diffusers", module)
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline"}))
    save_file({"colours": torch.tensor([[2.0, 0.5, -1.0], [1.0, -0.5, 2.0]])}, folder / "weights.safetensors")
    return folder


def light(image: np.ndarray) -> float:
    return float(image.astype(np.float64).mean())


def bright(path: Path) -> float:
    return light(imageio.imread(path))


def test_people_find_a_brighter_image(tmp_path: Path, pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    command = ["rank", "images", str(folder), "--pipeline", str(pipeline), "--search", "cmaes", "--rounds", "1"]
    command += ["--subspace", "4", "--m", "5", "--no-serve"]
    with person_who_answers(folder, bright):
        assert run_verb(command) == 0
    first, found = (imageio.imread(folder / f"{name}.png") for name in ("first", "found"))
    assert light(found) > light(first)
    capsys.readouterr()
    assert run_verb(command) == 0  # all is answered: it says where the images are
    assert str(folder / "found.png") in capsys.readouterr().out
    from rlopt.agents.zo_ranksgd.latents.diffusers_adapter import DiffusersDecoder

    again = LatentSearch.load(folder / "search", DiffusersDecoder.from_folder(pipeline))
    assert again.rounds == 1 and again.settings["search"] == "cmaes"


def test_mistakes_are_one_line(tmp_path: Path, pipeline: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder of a saved pipeline"):
        run_verb(["rank", "images", str(tmp_path / "s"), "--pipeline", str(tmp_path)])
    with pytest.raises(UnknownNameError, match="did you mean 'cmaes'"):
        run_verb(["rank", "images", str(tmp_path / "s"), "--pipeline", str(pipeline), "--search", "cmae"])
    with pytest.raises(ConfigError, match="line search"):
        LatentSearch(lambda z: z, (2, 2), search="cmaes", learning_rate=0.5)
