"""A diffusion model of 16x16 pictures of ellipses, trained on the CPU in under a minute, and scores of its pictures.

DDPM with the noise as the network's target (Ho, Jain, Abbeel 2020, equation 14) and the cosine schedule of Nichol and
Dhariwal 2021; pictures come from DDIM (Song, Meng, Ermon 2021, equation 12), with ``eta=0`` a function of the latent.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

SIZE = 16
N_TIMES = 200
Images = NDArray[np.float32]


def ellipses(n: int, rng: np.random.Generator) -> Images:
    """``[n, 1, 16, 16]`` pictures in [-1, 1]: one soft ellipse on black, all else about it drawn."""
    grid = np.arange(SIZE) + 0.5
    center = rng.uniform(4.5, SIZE - 4.5, (n, 2, 1, 1))
    axes = rng.uniform(1.8, 4.2, (n, 2, 1, 1))
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    x, y = grid[None, None, :] - center[:, 0], grid[None, :, None] - center[:, 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.sqrt((along / axes[:, 0]) ** 2 + (across / axes[:, 1]) ** 2)
    shape = 1 / (1 + np.exp(6 * (distance - 1)))
    return (2 * rng.uniform(0.4, 1.0, (n, 1, 1)) * shape - 1)[:, None].astype(np.float32)


class Block(nn.Module):
    """Two convolutions with the time added between them, and a skip past both."""

    def __init__(self, n_in: int, n_out: int, n_time: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, n_out)
        self.time = nn.Linear(n_time, n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = functional.silu(self.norm(self.first(x)) + self.time(time)[:, :, None, None])
        return functional.silu(self.second(hidden)) + self.skip(x)


class TinyUNet(nn.Module):
    """The noise in ``x [n, 1, 16, 16]`` at times ``t [n]``; about 120,000 parameters."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -math.log(1000), 16)))
        self.embed = nn.Sequential(nn.Linear(32, 32), nn.SiLU())
        self.enter = Block(1, width, 32)
        self.down = Block(width, 2 * width, 32)
        self.deep = Block(2 * width, 3 * width, 32)
        self.up = Block(5 * width, 2 * width, 32)
        self.leave = Block(3 * width, width, 32)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        time = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        full = self.enter(x, time)
        half = self.down(functional.avg_pool2d(full, 2), time)
        deep = self.deep(functional.avg_pool2d(half, 2), time)
        half = self.up(torch.cat([functional.interpolate(deep, scale_factor=2.0), half], 1), time)
        full = self.leave(torch.cat([functional.interpolate(half, scale_factor=2.0), full], 1), time)
        return self.out(full)


def signal_shares() -> Tensor:
    """The share of the picture's variance that is left at each time, ``[N_TIMES]``, falling to about 0."""
    times = (torch.arange(N_TIMES, dtype=torch.float64) + 1) / N_TIMES
    return (torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2).clamp(min=1e-3).float()


def train_tiny_diffusion(n_steps: int = 600, batch_size: int = 64, seed: int = 0) -> TinyUNet:
    """The network trained on fresh ellipses with Adam and averaged weights; the same for the same seed and threads."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, average = TinyUNet(), TinyUNet()
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=n_steps)
    shares = signal_shares()
    for step in range(n_steps):
        images = torch.from_numpy(ellipses(batch_size, rng))
        times = torch.randint(N_TIMES, (batch_size,))
        noise = torch.randn_like(images)
        share = shares[times][:, None, None, None]
        loss = functional.mse_loss(model(share.sqrt() * images + (1 - share).sqrt() * noise, times), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            keep = min(0.99, (1 + step) / (10 + step))
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
    torch.set_rng_state(state)
    return average.eval().requires_grad_(False)


class DDIM:
    """Decodes latents ``[n, 256]`` or ``[n, 1, 16, 16]`` to pictures ``[n, 1, 16, 16]`` in [-1, 1]."""

    def __init__(self, model: nn.Module, n_steps: int = 10, eta: float = 0.0) -> None:
        self.model = model
        self.eta = eta
        self.times = torch.linspace(N_TIMES - 1, 0, n_steps).round().long().tolist()
        self.shares = signal_shares()

    @torch.no_grad()
    def __call__(self, latents: NDArray[np.floating] | Tensor) -> Images:
        x = torch.as_tensor(np.asarray(latents), dtype=torch.float32).reshape(-1, 1, SIZE, SIZE)
        for index, time in enumerate(self.times):
            share = self.shares[time]
            after = self.shares[self.times[index + 1]] if index + 1 < len(self.times) else torch.tensor(1.0)
            noise = self.model(x, torch.full((len(x),), time))
            image = ((x - (1 - share).sqrt() * noise) / share.sqrt()).clamp(-1, 1)
            noise = (x - share.sqrt() * image) / (1 - share).sqrt()
            fresh = self.eta * ((1 - after) / (1 - share) * (1 - share / after)).clamp(min=0).sqrt()
            x = after.sqrt() * image + (1 - after - fresh**2).clamp(min=0).sqrt() * noise
            if self.eta:
                x = x + fresh * torch.randn_like(x)
        return x.numpy()


def _moments(images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each picture's light: the total ``[n]``, the center ``[n, 2]`` (x, y), and the covariance ``[n, 2, 2]``."""
    light = np.clip((np.asarray(images, np.float64).reshape(-1, SIZE, SIZE) + 1) / 2 - 0.05, 0, None) + 1e-9
    total = light.sum((1, 2))
    grid = (np.arange(SIZE) + 0.5) / SIZE
    places = np.stack(np.meshgrid(grid, grid), -1)
    center = np.einsum("nyx,yxc->nc", light, places) / total[:, None]
    offset = places - center[:, None, None]
    return total, center, np.einsum("nyx,nyxc,nyxd->ncd", light, offset, offset) / total[:, None, None]


def brightness(images: Images) -> NDArray[np.float64]:
    """The mean light of a picture, 0 to 1."""
    return _moments(images)[0] / SIZE**2


def leftness(images: Images) -> NDArray[np.float64]:
    """How far left the light's center is: 1 at the left edge, 0 at the right one."""
    return 1 - _moments(images)[1][:, 0]


def roundness(images: Images) -> NDArray[np.float64]:
    """The ratio of the smaller to the larger axis of the light's covariance, 0 to 1."""
    values = np.linalg.eigvalsh(_moments(images)[2])
    return np.sqrt(values[:, 0] / values[:, 1])


SCORES: dict[str, Callable[[Images], NDArray[np.float64]]] = {
    "brighter": brightness,
    "further left": leftness,
    "rounder": roundness,
}
