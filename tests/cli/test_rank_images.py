"""``rlopt rank images`` on a saved pipeline of a package that stands in for diffusers."""

import json
import sys
import threading
import time
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
from rlopt.errors import ConfigError, StudyError, UnknownNameError
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.results import media_file
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.store import open_store


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


def answer(folder: Path, over: threading.Event) -> None:
    """A person who likes bright images, until it is over."""
    while not over.is_set():
        try:
            store = open_store(str(folder), None)
            study = store.study(None)
            break
        except StudyError:  # it is being made
            time.sleep(0.05)
    session, rater = RaterSession(store, study), store.add_rater(study, "somebody")
    while not over.is_set():
        shown = session.lease(rater.id)
        if shown is None:
            time.sleep(0.05)
            continue
        files = [media_file(store, study, clip.media_id) for clip in shown.clips]
        values = [light(imageio.imread(store.media_root / file[0])) for file in files if file]
        ranking = Ranking.from_values(values, shown.k, maximize=True)
        ids = [clip.id for clip in shown.clips]
        tiers = [[ids[index] for index in tier] for tier in ranking.tiers]
        session.answer(rater.id, shown.id, shown.id, tiers, [ids[index] for index in ranking.unranked])
    store.close()


@pytest.mark.parametrize("search", ["zo_ranksgd", "cmaes"])
def test_people_find_a_brighter_image(
    tmp_path: Path, pipeline: Path, search: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, over = tmp_path / "study", threading.Event()
    person = threading.Thread(target=answer, args=(folder, over), daemon=True)
    person.start()
    command = ["rank", "images", str(folder), "--pipeline", str(pipeline), "--search", search, "--rounds", "2"]
    command += ["--subspace", "4", "--m", "5", "--no-serve"]
    try:
        assert run_verb(command) == 0
    finally:
        over.set()
        person.join()
    first, found = (imageio.imread(folder / f"{name}.png") for name in ("first", "found"))
    assert light(found) > light(first)
    capsys.readouterr()
    assert run_verb(command) == 0  # all is answered: it says where the images are
    assert str(folder / "found.png") in capsys.readouterr().out
    from rlopt.agents.zo_ranksgd.latents.diffusers_adapter import DiffusersDecoder

    again = LatentSearch.load(folder / "search", DiffusersDecoder.from_folder(pipeline))
    assert again.rounds == 2 and again.settings["search"] == search


def test_mistakes_are_one_line(tmp_path: Path, pipeline: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of a saved pipeline"):
        run_verb(["rank", "images", str(tmp_path / "s"), "--pipeline", str(tmp_path)])
    with pytest.raises(UnknownNameError, match="did you mean 'cmaes'"):
        run_verb(["rank", "images", str(tmp_path / "s"), "--pipeline", str(pipeline), "--search", "cmae"])
    with pytest.raises(ConfigError, match="line search"):
        LatentSearch(lambda z: z, (2, 2), search="cmaes", learning_rate=0.5)
