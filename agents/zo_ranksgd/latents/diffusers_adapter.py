"""A user's diffusers pipeline as a ``decode`` for :class:`rlopt.LatentSearch`. Downloads nothing."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlopt.agents.zo_ranksgd.latents.geometry import DETERMINISTIC
from rlopt.errors import ConfigError, DecodeError, one_line

NOISY_SCHEDULERS = ("Ancestral", "SDE", "DDPM", "LCM", "TCD", "RePaint", "SASolver", "CMStochastic", "ScoreSde")
"""Parts of the names of diffusers' schedulers that add noise at every step."""
NOISY_SETTINGS = ("stochastic_sampling", "use_stochastic_sampling")


class DiffusersDecoder:
    """Images ``[n, height, width, channels]`` in [0, 1] of latents ``[n, *shape]``, through ``pipeline(latents=...)``.

    A pipeline without that argument, such as diffusers' unconditional ``DDIMPipeline``, is run by its ``unet`` and
    ``scheduler``. Everything but the latents is the same in every call, the generator's seed too, and eta is 0.

    :param pipeline: an object of diffusers, on its device
    :param n_steps: denoising steps
    :param seed: seed of the generator that is given to each call
    :param arguments: more for each call of the pipeline, such as ``{"prompt": "a lighthouse", "guidance_scale": 5.0}``
    :raises rlopt.errors.DecodeError: its scheduler adds noise, or it takes no latents
    """

    def __init__(
        self, pipeline: Any, *, n_steps: int = 20, seed: int = 0, arguments: Mapping[str, Any] | None = None
    ) -> None:
        if n_steps < 1:
            raise ConfigError(f"n_steps is {n_steps}: use 1 or more")
        self._pipeline = pipeline
        self._n_steps = n_steps
        self._seed = seed
        self._arguments = dict(arguments or {})
        reserved = {"latents", "generator", "num_inference_steps", "output_type", "return_dict"} & set(self._arguments)
        if reserved:
            raise ConfigError(f"the decoder sets {sorted(reserved)[0]!r} itself: leave it out of arguments")
        check_scheduler(getattr(pipeline, "scheduler", None))
        if self._arguments.get("eta"):
            raise DecodeError(f"eta is {self._arguments['eta']}, which adds noise: {DETERMINISTIC}")
        self._accepted = set(inspect.signature(type(pipeline).__call__).parameters)
        unconditional = hasattr(pipeline, "unet") and not hasattr(pipeline, "vae")
        if "latents" not in self._accepted and not unconditional:
            raise DecodeError(
                f"a {type(pipeline).__name__} takes no latents= and is not run by a unet and a scheduler alone: use a "
                "pipeline that takes them, or give LatentSearch a function of your own"
            )
        unknown = sorted(set(self._arguments) - self._accepted)
        if unknown or (self._arguments and "latents" not in self._accepted):
            name = unknown[0] if unknown else next(iter(self._arguments))
            raise ConfigError(f"a {type(pipeline).__name__} run with latents has no argument {name!r}: leave it out")
        if hasattr(pipeline, "set_progress_bar_config"):
            pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32", **settings: Any) -> Any:
        """The decoder of a pipeline saved in a local folder: safetensors weights only, no code, no network.

        :param settings: settings of the constructor
        :raises rlopt.errors.ConfigError: there is no such folder (the name of a model on a hub is none)
        :raises rlopt.errors.DecodeError: diffusers is not installed, or cannot read the folder
        """
        path = Path(folder)
        if not (path / "model_index.json").is_file():
            raise ConfigError(f"{folder} is not a folder of a saved pipeline with a model_index.json: give a local one")
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise DecodeError(f"diffusers cannot be imported ({error}): pip install diffusers transformers") from error
        try:
            pipeline = DiffusionPipeline.from_pretrained(
                str(path), local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).to(device, getattr(torch, dtype))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            raise DecodeError(f"diffusers cannot read {folder}: {one_line(error)}") from error
        return cls(pipeline, **settings)

    @property
    def shape(self) -> tuple[int, int, int]:
        """A latent's shape as the pipeline's network has it: (channels, height, width)."""
        network = getattr(self._pipeline, "unet", None) or getattr(self._pipeline, "transformer", None)
        config = getattr(network, "config", None)
        size = getattr(config, "sample_size", None)
        if config is None or size is None:
            raise DecodeError(f"a {type(self._pipeline).__name__} does not tell its latents' shape: give it yourself")
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(width)

    @torch.no_grad()
    def __call__(self, latents: NDArray[np.floating] | torch.Tensor) -> NDArray[np.float32]:
        network = getattr(self._pipeline, "unet", None) or getattr(self._pipeline, "transformer", None)
        device = getattr(self._pipeline, "device", torch.device("cpu"))
        given = torch.as_tensor(latents).to(device=device, dtype=getattr(network, "dtype", torch.float32))
        # On the CPU, where a seed gives the same noise whatever the GPU.
        generator = torch.Generator("cpu").manual_seed(self._seed)
        if "latents" not in self._accepted:
            return self._denoise(given, generator)
        call = dict(self._arguments)
        call |= {"latents": given, "num_inference_steps": self._n_steps, "output_type": "np"}
        for name, value in (("generator", generator), ("eta", 0.0), ("num_images_per_prompt", len(given))):
            if name in self._accepted:
                call[name] = value
        if "num_images_per_prompt" not in self._accepted and "batch_size" in self._accepted:
            call["batch_size"] = len(given)
        return np.asarray(self._pipeline(**call).images, dtype=np.float32)

    def _denoise(self, latents: torch.Tensor, generator: torch.Generator) -> NDArray[np.float32]:
        scheduler, unet = self._pipeline.scheduler, self._pipeline.unet
        scheduler.set_timesteps(self._n_steps)
        accepted = inspect.signature(scheduler.step).parameters
        fixed: dict[str, Any] = {"eta": 0.0, "generator": generator}
        extra = {name: value for name, value in fixed.items() if name in accepted}
        image = latents * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            noise = unet(scheduler.scale_model_input(image, time), time).sample
            image = scheduler.step(noise, time, image, **extra).prev_sample
        return (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def check_scheduler(scheduler: Any) -> None:
    """Raises :class:`rlopt.errors.DecodeError` where a pipeline's scheduler is known to add noise while it samples."""
    if scheduler is None:
        raise DecodeError("the pipeline has no scheduler to check: give LatentSearch a function of your own")
    name = type(scheduler).__name__
    config: Mapping[str, Any] = getattr(scheduler, "config", {})
    algorithm = str(config.get("algorithm_type", ""))
    setting = next((key for key in NOISY_SETTINGS if config.get(key)), None)
    if any(part in name for part in NOISY_SCHEDULERS) or algorithm.startswith("sde") or setting:
        how = f"{name} with {algorithm or setting}" if algorithm.startswith("sde") or setting else name
        cure = "pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)"
        raise DecodeError(f"{how} adds noise at every step, so that an image is not a function of its latent: {cure}")
