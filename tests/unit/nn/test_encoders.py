"""DrQ-v2's encoder and random shifts: the mathematics, and who trains what."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camera import camera
from gymnasium import spaces
from stable_baselines3 import SAC
from torch.nn import functional as F

import rlopt
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import ConfigError, SpaceError, UnknownNameError
from rlopt.nn.encoders import DrQV2Encoder, random_shift, shift_batch, shift_images
from rlopt.optim.descent import OwnNetworks

SMALL: dict[str, Any] = {
    "batch_size": 8, "learning_starts": 12, "buffer_size": 100, "seed": 0, "device": "cpu", "learning_rate": 1e-3,
}  # fmt: skip
NETWORKS: dict[str, Any] = {"net_arch": [16], "features_extractor_class": "drqv2"}


def make(**settings: Any) -> OffPolicyMDPO:
    return OffPolicyMDPO("CnnPolicy", camera(), **{**SMALL, "kl_coef": 0.1, "policy_kwargs": NETWORKS, **settings})


def values(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def test_features_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    encoder = DrQV2Encoder(spaces.Box(0, 255, (9, 84, 84), np.uint8))
    assert encoder.trunk[0].in_features == 32 * 35 * 35  # the released code's size for images of 84 x 84
    assert sum(p.numel() for p in encoder.convolutions.parameters()) == 32 * (9 * 9 + 1) + 3 * 32 * (9 * 32 + 1)
    images = torch.rand(2, 9, 84, 84)
    x = images * 255 / 255 - 0.5
    for layer, stride in ((0, 2), (2, 1), (4, 1), (6, 1)):
        convolution = encoder.convolutions[layer]
        # A convolution is a product with unfolded patches.
        patches = F.unfold(x, 3, stride=stride)
        side = (x.shape[-1] - 3) // stride + 1
        product = convolution.weight.flatten(1) @ patches + convolution.bias[:, None]
        x = product.clamp_min(0).unflatten(2, (side, side))
    z = x.flatten(1) @ encoder.trunk[0].weight.T + encoder.trunk[0].bias
    normal = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    features = encoder(images)
    assert features.shape == (2, 50)
    assert torch.allclose(features, normal.tanh(), atol=1e-4)


def test_weights_begin_orthogonal_and_biases_at_zero() -> None:
    encoder = DrQV2Encoder(spaces.Box(0, 255, (3, 20, 20), np.uint8), features_dim=8)
    for module, square in ((encoder.convolutions[2], 2.0), (encoder.trunk[0], 1.0)):  # sqrt(2) is the gain of ReLU
        rows = module.weight.flatten(1)
        assert torch.allclose(rows @ rows.T, square * torch.eye(len(rows)), atol=1e-4)
        assert not module.bias.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifts_are_cut_outs_of_the_padded_image(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (6, 4, 7, 5), dtype=torch.uint8).to(dtype)
    shifts = torch.tensor([[0, 0], [2, 2], [4, 4], [0, 4], [1, 3], [3, 0]])
    shifted = shift_images(images, shifts, 2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    for image, (row, column), expected in zip(shifted.numpy(), shifts.tolist(), padded, strict=True):
        assert np.array_equal(image, expected[:, row : row + 7, column : column + 5])
    assert shifted.dtype == dtype and torch.equal(shifted[1], images[1])


def test_shifts_are_those_of_bilinear_sampling() -> None:
    images = torch.randint(0, 256, (5, 3, 12, 12)).float()
    shifts = torch.randint(0, 9, (5, 2))
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    centres = torch.arange(12) + 0.5  # of pixels; the sides of the padded image are at -1 and 1
    places = 2 * (centres[None] + shifts.float().T[:, :, None]) / 20 - 1
    grid = torch.stack([places[1][:, None, :].expand(-1, 12, -1), places[0][:, :, None].expand(-1, -1, 12)], dim=-1)
    expected = F.grid_sample(padded, grid, mode="bilinear", align_corners=False)
    assert torch.allclose(shift_images(images, shifts, 4), expected, atol=1e-2)


def test_random_shifts_are_uniform_and_of_whole_images() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(100, dtype=torch.uint8).reshape(1, 1, 10, 10).expand(9000, 2, 10, 10)
    shifted = random_shift(ramp, 1)
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    corner = shifted[:, 0, 5, 5].long() - 55  # ten a row, one a column
    counts = torch.stack([(corner == 10 * row + column).sum() for row in (-1, 0, 1) for column in (-1, 0, 1)])
    assert counts.sum() == 9000
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 26.1  # chi-square with eight degrees of freedom, p = 0.001


def test_batches_are_shifted_before_and_after_and_their_rewards_are_not_changed() -> None:
    model = make(n_steps=3).learn(40)
    batch = model.replay_buffer.sample(32)
    torch.manual_seed(1)
    shifted = shift_batch(batch, 4)
    assert not torch.equal(shifted.observations, batch.observations)
    moved = [
        [torch.equal(shift_images(x[None], torch.tensor([[r, c]]), 4)[0], y) for r in range(9) for c in range(9)]
        for x, y in ((batch.observations[0], shifted.observations[0]), (batch.next_observations[0], shifted[2][0]))
    ]
    assert all(map(any, moved)) and moved[0] != moved[1]
    assert torch.equal(shifted.rewards, batch.rewards) and torch.equal(shifted.discounts, batch.discounts)


def test_training_sees_shifted_images() -> None:
    plain, shifted, again = make().learn(20), make(random_shift=2).learn(20), make(random_shift=2).learn(20)
    assert not torch.equal(values(plain.policy), values(shifted.policy))
    assert torch.equal(values(again.policy), values(shifted.policy))


def test_with_the_nature_network_it_is_sac_bit_for_bit() -> None:
    settings: dict[str, Any] = {**SMALL, "policy_kwargs": {"net_arch": [8]}}
    ours = OffPolicyMDPO("CnnPolicy", camera(36), kl_coef=0.0, **settings).learn(20)
    sac = SAC("CnnPolicy", camera(36), **settings).learn(20)
    assert torch.equal(values(ours.policy), values(sac.policy))


def test_the_critics_alone_train_the_convolutions() -> None:
    for trained in ("actor", "critic"):
        model = make(kl_coef=0.0)
        frozen = model.critic if trained == "actor" else model.actor
        model._update_learning_rate = lambda optimizers: None
        for group in frozen.optimizer.param_groups:
            group["lr"] = 0.0
        encoder = model.critic.features_extractor
        before = values(encoder.convolutions), values(model.actor.features_extractor.trunk), values(encoder.trunk)
        model.learn(20)
        after = values(encoder.convolutions), values(model.actor.features_extractor.trunk), values(encoder.trunk)
        changed = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
        assert changed == ([False, True, False] if trained == "actor" else [True, False, True])


def test_convolutions_are_shared_and_the_rest_is_not() -> None:
    model = make()
    encoders: list[Any] = [net.features_extractor for net in (model.actor, model.critic, model.critic_target)]
    assert encoders[0].convolutions is encoders[1].convolutions is encoders[2].convolutions
    assert len({id(encoder.trunk[0].weight) for encoder in encoders}) == 3
    trained = {id(p) for p in model.actor.optimizer.param_groups[0]["params"]}
    assert trained.isdisjoint(id(p) for p in encoders[0].convolutions.parameters())
    assert {id(p) for p in encoders[0].trunk.parameters()} <= trained
    assert model.old_actor.features_extractor.convolutions is not encoders[0].convolutions


def test_the_slow_copy_moves_and_the_convolutions_stay() -> None:
    model = make(tau=0.25)
    encoder, slow = model.critic.features_extractor, model.critic_target.features_extractor
    with torch.no_grad():
        slow.trunk[0].weight.add_(1.0)
    before, convolutions = slow.trunk[0].weight.detach().clone(), values(encoder.convolutions)
    OwnNetworks(model.networks(), lambda name, loss: None).move("critic_target", "critic", model.tau)
    assert torch.allclose(slow.trunk[0].weight, 0.75 * before + 0.25 * encoder.trunk[0].weight)
    assert torch.equal(values(encoder.convolutions), convolutions)


@pytest.mark.parametrize("critic_moves", [True, False])
def test_convolving_once_gives_the_step_of_every_network_convolving_by_itself(critic_moves: bool) -> None:
    """The actor's step too, where the convolutions are put back for it: DrQ-v2 takes it from what they were before."""
    once, apart = make(kl_coef=0.2).learn(12), make(kl_coef=0.2).learn(12)
    convolutions = apart.critic.features_extractor.convolutions
    before, moved = copy.deepcopy(convolutions.state_dict()), {}

    def put_back(step: Any, info: Any) -> Any:
        moved.update(copy.deepcopy(convolutions.state_dict()))
        convolutions.load_state_dict(before)
        return info

    apart._convolves_once = lambda: False
    apart.after_critics = put_back
    for model in (once, apart):
        model.critic.optimizer.param_groups[0]["lr"] *= critic_moves
    drawn = {"rows": torch.arange(8), "noise": torch.randn(8, 2), "next_noise": torch.randn(8, 2)}
    first, second = (
        model.gradient_step(
            OwnNetworks(model.networks(), lambda name, loss: None),
            model.read_batch(drawn),
            drawn,
            model.scalars(),
            move_targets=False,
        )
        for model in (once, apart)
    )
    assert all(torch.equal(before[name], value) is not critic_moves for name, value in moved.items())
    convolutions.load_state_dict(moved)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name
    assert first["kl"].item() == pytest.approx(0, abs=1e-7)  # the actor has not moved, nor what it sees
    for own, other in [(once.critic, apart.critic), (once.actor, apart.actor)]:
        for x, y in zip(own.parameters(), other.parameters(), strict=True):
            assert x.grad is not None and torch.allclose(x.grad, y.grad, atol=1e-5)
            assert torch.allclose(x, y, atol=1e-5)


def test_the_old_policy_sees_through_its_own_convolutions() -> None:
    model = make(kl_coef=0.2, old_policy_period=1000)
    old = values(model.old_actor)
    model.learn(30)
    assert torch.equal(values(model.old_actor), old)
    assert not torch.equal(values(model.actor.features_extractor.convolutions), old[: 32 * (27 + 1) + 3 * 32 * 289])


@pytest.mark.parametrize("settings", [{"value_network": True}, {"actor_q": "first"}, {"use_sde": True}], ids=str)
def test_variants_train(settings: dict[str, Any]) -> None:
    model = make(**settings)
    before = values(model.critic.features_extractor.convolutions)
    model.learn(20)
    assert torch.isfinite(values(model.policy)).all()
    assert not torch.equal(values(model.critic.features_extractor.convolutions), before)


def test_a_checkpoint_and_a_zip_file_keep_the_encoder(tmp_path: Path) -> None:
    model = make(random_shift=2).learn(30)
    image = camera().reset()
    expected = model.predict(image, deterministic=True)[0]
    loaded = rlopt.load(save_checkpoint(model, tmp_path))
    assert np.array_equal(loaded.predict(image, deterministic=True)[0], expected)
    assert loaded.actor.features_extractor.convolutions is loaded.critic.features_extractor.convolutions
    model.save(tmp_path / "model.zip")
    zipped = OffPolicyMDPO.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(zipped.predict(image, deterministic=True)[0], expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpaceError, match="takes images"):
        OffPolicyMDPO("MlpPolicy", "Pendulum-v1", policy_kwargs=NETWORKS)
    with pytest.raises(SpaceError, match="too small"):
        DrQV2Encoder(spaces.Box(0, 255, (3, 16, 84), np.uint8))
    with pytest.raises(ConfigError, match="random_shift is for images"):
        OffPolicyMDPO("MlpPolicy", "Pendulum-v1", random_shift=4)
    with pytest.raises(ConfigError, match="random_shift = -1 is outside"):
        make(random_shift=-1)
    with pytest.raises(ConfigError, match="share_features_extractor"):
        make(policy_kwargs=NETWORKS | {"share_features_extractor": True})
    with pytest.raises(UnknownNameError, match="'drqv2'"):
        make(policy_kwargs={"features_extractor_class": "drq2"})


def test_the_encoder_is_a_setting() -> None:
    assert "features_extractor_class" not in OffPolicyMDPOConfig().algorithm_kwargs()["policy_kwargs"]
    chosen = OffPolicyMDPOConfig(encoder="drqv2", random_shift=4, net_arch=(8,), buffer_size=100).algorithm_kwargs()
    model = OffPolicyMDPO("CnnPolicy", camera(), device="cpu", **chosen)
    assert type(model.critic.features_extractor) is DrQV2Encoder and model.random_shift == 4
