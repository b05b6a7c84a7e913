"""The adapter of diffusers pipelines: with stand-ins, and with small random pipelines where diffusers is installed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from rlopt.agents.zo_ranksgd.latents.diffusers_adapter import DiffusersDecoder, check_scheduler
from rlopt.agents.zo_ranksgd.latents.search import LatentSearch, ScoreOracle
from rlopt.errors import ConfigError, DecodeError

try:
    import diffusers
except ImportError as error:
    diffusers = None
    ABSENT = f"diffusers cannot be imported ({error}): pip install diffusers"
else:
    ABSENT = ""
needs_diffusers = pytest.mark.skipif(diffusers is None, reason=ABSENT)


class DDIMScheduler:
    """A stand-in for a scheduler of diffusers that adds no noise."""

    config: ClassVar[dict[str, Any]] = {}


class Painter:
    """A stand-in for a pipeline that takes latents."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.vae, self.calls = scheduler, object(), []  # type: ignore[var-annotated]

    def __call__(
        self,
        prompt: str = "",
        num_inference_steps: int = 50,
        num_images_per_prompt: int = 1,
        eta: float = 0.5,
        generator: Any = None,
        latents: Any = None,
        output_type: str = "pil",
    ) -> Any:
        self.calls.append(
            (prompt, num_inference_steps, num_images_per_prompt, eta, generator.initial_seed(), output_type)
        )
        assert num_images_per_prompt == len(latents) and output_type == "np"
        return SimpleNamespace(images=latents.permute(0, 2, 3, 1).numpy())


def test_a_pipeline_gets_the_latents_and_all_else_fixed() -> None:
    pipeline = Painter(DDIMScheduler())
    decode = DiffusersDecoder(pipeline, n_steps=7, seed=3, arguments={"prompt": "a lighthouse"})
    latents = np.random.default_rng(0).normal(size=(5, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(decode(latents), latents.transpose(0, 2, 3, 1))
    decode(latents[:1])
    assert pipeline.calls == [("a lighthouse", 7, 5, 0.0, 3, "np"), ("a lighthouse", 7, 1, 0.0, 3, "np")]
    result = LatentSearch(decode, (2, 4, 4)).run(ScoreOracle(lambda images: images.mean((1, 2, 3))), 4)
    assert result.pictures.shape == (3, 4, 4, 2)


def test_what_cannot_work_is_refused() -> None:
    pipeline = Painter(DDIMScheduler())
    refused = [
        ({"arguments": {"eta": 0.3}}, DecodeError, "eta=0"),
        ({"arguments": {"latents": 1}}, ConfigError, "'latents' itself"),
        ({"arguments": {"promt": "a"}}, ConfigError, "no argument 'promt'"),
        ({"n_steps": 0}, ConfigError, "n_steps"),
    ]
    for settings, error, words in refused:
        with pytest.raises(error, match=words):
            DiffusersDecoder(pipeline, **settings)  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="no scheduler"):
        DiffusersDecoder(object())
    with pytest.raises(DecodeError, match="takes no latents"):
        DiffusersDecoder(SimpleNamespace(scheduler=DDIMScheduler()))


@pytest.mark.parametrize(
    "name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler", "DPMSolverSDEScheduler"]
)
def test_schedulers_that_add_noise_are_refused_with_the_cure(name: str) -> None:
    with pytest.raises(DecodeError, match=f"{name} adds noise.*DDIMScheduler"):
        check_scheduler(type(name, (), {"config": {}})())


def test_a_solver_set_to_a_stochastic_equation_is_refused() -> None:
    solver = type("DPMSolverMultistepScheduler", (), {})()
    solver.config = {"algorithm_type": "dpmsolver++"}
    check_scheduler(solver)
    solver.config = {"algorithm_type": "sde-dpmsolver++"}
    with pytest.raises(DecodeError, match=r"sde-dpmsolver\+\+ adds noise"):
        check_scheduler(solver)


@pytest.mark.parametrize("name", ["stabilityai/stable-diffusion-2-1", "."])
def test_only_folders_of_saved_pipelines_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="local"):
        DiffusersDecoder.from_folder(name)


def unconditional(scheduler: Any) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    # DDIMPipeline makes a DDIM scheduler of any other.
    kind = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    return kind(unet.eval(), scheduler)


@needs_diffusers
def test_an_unconditional_pipeline_is_run_as_it_runs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = unconditional(diffusers.DDIMScheduler(num_train_timesteps=100))
    decode = DiffusersDecoder(pipeline, n_steps=4)
    assert decode.shape == (1, 8, 8)
    drawn = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(11))
    own = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(11), eta=0.0, num_inference_steps=4, output_type="np"
    ).images
    np.testing.assert_array_equal(decode(drawn), own)
    result = LatentSearch(decode, decode.shape, seed=1).run(ScoreOracle(lambda images: images.mean((1, 2, 3))), 6)
    scores = result.scores(lambda images: images.mean((1, 2, 3)))
    assert result.pictures.shape == (3, 8, 8, 1) and scores["search"] > scores["start"]


@needs_diffusers
@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_noisy_schedulers_of_the_library_are_refused(name: str) -> None:
    with pytest.raises(DecodeError, match=name):
        DiffusersDecoder(unconditional(getattr(diffusers, name)()))


@needs_diffusers
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_solvers_pass_the_trial(name: str) -> None:
    pipeline = unconditional(getattr(diffusers, name)())
    assert type(pipeline.scheduler).__name__ == name
    decode = DiffusersDecoder(pipeline, n_steps=3)
    LatentSearch(decode, decode.shape).ask()


@needs_diffusers
def test_a_saved_pipeline_is_read_from_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = unconditional(diffusers.DDIMScheduler(num_train_timesteps=100))
    pipeline.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it went to the network"))
    decode = DiffusersDecoder.from_folder(tmp_path / "saved", n_steps=2)
    latents = np.random.default_rng(0).normal(size=(2, 1, 8, 8))
    np.testing.assert_array_equal(decode(latents), DiffusersDecoder(pipeline, n_steps=2)(latents))
    weights = tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(pipeline.unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(DecodeError, match="cannot read"):
        DiffusersDecoder.from_folder(tmp_path / "saved")


def text_conditional() -> Any:
    """Stable Diffusion's pipeline with small random parts; its text is given as embeddings."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler(num_train_timesteps=100),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@needs_diffusers
def test_stable_diffusion_takes_latents() -> None:
    pytest.importorskip(
        "transformers", reason="Stable Diffusion's pipeline needs transformers: pip install transformers"
    )
    text = {name: torch.zeros(1, 3, 8) for name in ("prompt_embeds", "negative_prompt_embeds")}
    decode = DiffusersDecoder(text_conditional(), n_steps=2, arguments=text)
    assert decode.shape == (4, 8, 8)
    result = LatentSearch(decode, decode.shape, subspace=8, batch_size=4).run(
        ScoreOracle(lambda images: images.mean((1, 2, 3))), 2
    )
    assert result.pictures.shape == (3, 16, 16, 3) and np.ptp(result.pictures, axis=0).max() > 0
