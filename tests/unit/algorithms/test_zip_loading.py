"""Models from zips of ``save``: settings given to ``load`` hold as in the constructor, or are refused in its words."""

import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from reach import Reach, vec_env

import rlopt
from rlopt.algorithms.resumable import Resumable
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.errors import CheckpointError, ConfigError, UnknownNameError
from rlopt.registry import AGENTS, resolve
from rlopt.settings.fields import check_setting, field_types, without_former
from rlopt.settings.presets import split_settings

DEEP = {
    name: cls
    for name, spec in AGENTS.items()
    if isinstance(cls := resolve(spec.algorithm), type) and issubclass(cls, Resumable)
}
SPACES = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
NETWORKS = {"net_arch": [4]}


def spaces_of(name: str) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Spaces that the agent takes."""
    return SPACES[0], spaces.Discrete(3) if name.startswith(("differential_dqn", "discrete_")) else SPACES[1]


def built(name: str, **settings: Any) -> Any:
    env = SpacesOnlyVecEnv(1, *spaces_of(name))
    small = {"policy_kwargs": dict(NETWORKS), "device": "cpu"}
    names = inspect.signature(DEEP[name].__init__).parameters
    small |= {key: value for key, value in {"buffer_size": 64, "n_steps": 8}.items() if key in names}
    if "replay_buffer_class" in names or DEEP[name].__name__ in (
        "DeepLOOP",
        "DiscreteIQLearn",
        "DiscreteSQIL",
        "IQLearn",
        "SQIL",
        "ValueDICE",
    ):
        small.pop("n_steps", None)
    return DEEP[name]("MlpPolicy", env, **{**small, **settings})


@functools.cache
def zipped(name: str, folder: Path) -> Path:
    built(name).save(folder / f"{name}.zip")
    return folder / f"{name}.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return typing.cast(Path, tmp_path_factory.mktemp("zips"))


def own_settings(name: str) -> Mapping[str, Any]:
    """Annotations of the settings that the class has and no base class of its own."""
    annotations = field_types(resolve(AGENTS[name].config))
    given = inspect.signature(DEEP[name].__init__).parameters.keys() & annotations.keys()
    bases = [cls for cls in DEEP.values() if cls is not DEEP[name] and issubclass(DEEP[name], cls)]
    if any(
        cls is not DEEP[name] and cls.__base__ is DEEP[name].__base__
        for cls in list(DEEP.values())[: list(DEEP).index(name)]
    ):
        bases.append(DEEP[name].__base__)  # offline learners: those of the base once
    taken = {key for cls in bases for key in inspect.signature(cls.__init__).parameters}
    return {key: annotations[key] for key in sorted(given - taken - {"expert"})}  # who is asked, no setting of a model


def candidates(value: Any, annotation: Any) -> Iterator[Any]:
    """Values unlike ``value`` that the declaration accepts."""
    numbers = [0.25, 2, 1.5, 3, 0.0, 7] if not isinstance(value, bool) else [not value]
    words = [word for part in (annotation, *typing.get_args(annotation)) for word in typing.get_args(part)]
    for other in [*numbers, *(word for word in words if isinstance(word, str | bool)), (5, 5), "auto_0.5"]:
        try:
            check_setting("", other, annotation)
        except ConfigError:
            continue
        if other != value:
            yield other


def told(make: Any) -> tuple[Any, tuple[type, str] | None]:
    try:
        return make(), None
    except ConfigError as error:
        return None, (type(error), str(error))


def rates(model: Any) -> dict[str, float]:
    parts = {
        name: stable_baselines3.common.save_util.recursive_getattr(model, name)
        for name in model.get_parameters()
        if name != "boosting"
    }
    return {name: group["lr"] for name, part in parts.items() for group in getattr(part, "param_groups", ())}


def plain(model: Any) -> dict[str, Any]:
    kinds = (bool, int, float, str, type(None), tuple, type)
    found = {name: value for name, value in vars(model).items() if isinstance(value, kinds)}
    return {name: value for name, value in found.items() if name not in ("start_time", "env")}


@pytest.mark.parametrize("name", DEEP)
def test_a_setting_given_to_load_holds_as_in_the_constructor(name: str, folder: Path) -> None:
    """The model that is loaded with it has the attributes, rates and coefficients of one that was made with it."""
    path, env = zipped(name, folder), SpacesOnlyVecEnv(1, *spaces_of(name))
    default = built(name)
    for setting, annotation in own_settings(name).items():
        others = list(candidates(default.constructor_settings.get(setting), annotation))
        assert others or setting in ("verbose",), setting
        for other in others[:1]:
            load = functools.partial(DEEP[name].load, path, env=env, device="cpu", **{setting: other})
            made, refused = told(functools.partial(built, name, **{setting: other}))
            if setting in DEEP[name].settled:
                with pytest.raises(ConfigError, match=f"{setting} is part of what was trained"):
                    load()
                continue
            try:
                loaded, said = told(load)
            except CheckpointError as error:  # other networks
                assert "networks" in str(error) or "does not fit" in str(error), (setting, error)
                continue
            assert said == refused, setting
            if made is not None:
                assert loaded.constructor_settings[setting] == made.constructor_settings[setting], setting
                assert plain(loaded) == plain(made), setting
                assert rates(loaded) == rates(made), setting
                assert loaded.lr_schedule(0.5) == made.lr_schedule(0.5), setting
                if getattr(made, "ent_coef_tensor", None) is not None:
                    assert loaded.ent_coef_tensor == made.ent_coef_tensor, setting
                if getattr(made, "log_ent_coef", None) is not None:
                    assert torch.equal(loaded.log_ent_coef, made.log_ent_coef), setting


@pytest.mark.parametrize("name", DEEP)
def test_load_refuses_in_the_words_of_the_constructor(name: str, folder: Path) -> None:
    path, refusals = zipped(name, folder), 0
    for setting in own_settings(name):
        for wrong in ("no such", -3, 1e9):
            _, refused = told(functools.partial(built, name, **{setting: wrong}))
            if refused is not None:
                assert told(functools.partial(DEEP[name].load, path, device="cpu", **{setting: wrong}))[1] == refused
                refusals += 1
    assert refusals > 3 or not own_settings(name) or name in ("sqil", "dagger")
    for misspelt, advice in (("learning_rat", "did you mean 'learning_rate'?"), ("lr", "its name is learning_rate")):
        with pytest.raises(UnknownNameError) as of_constructor:
            built(name, **{misspelt: 1.0})
        with pytest.raises(UnknownNameError) as of_load:
            DEEP[name].load(path, **{misspelt: 1.0})
        assert str(of_load.value) == str(of_constructor.value) and advice in str(of_load.value)


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there_is_refused(name: str, folder: Path) -> None:
    for device in ("cuda", torch.device("cuda"), "cuda:1"):
        with pytest.raises(ConfigError, match=r"device 'cuda.*' is not usable with this torch"):
            built(name, device=device)
        with pytest.raises(ConfigError, match=r"device 'cuda.*' is not usable with this torch"):
            DEEP[name].load(zipped(name, folder), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there_is_refused_by_a_search_from_rankings() -> None:
    with pytest.raises(ConfigError, match="device 'cuda' is not usable with this torch"):
        rlopt.RankedPolicySearch("MlpPolicy", "CartPole-v1", device="cuda")


def trained(cls: Any, path: Path, **settings: Any) -> Any:
    small = {"learning_starts": 10, "buffer_size": 200} if issubclass(cls, stable_baselines3.SAC) else {"n_steps": 32}
    small |= {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    if cls is stable_baselines3.PPO:
        small["batch_size"] = 16
    model = cls("MlpPolicy", vec_env(), **{**small, **settings}).learn(64)
    model.save(path)
    return model


def test_what_sac_has_learned_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """rlopt.SAC and Stable-Baselines3's, both from one zip of Stable-Baselines3's."""
    trained(stable_baselines3.SAC, tmp_path / "sac.zip", n_steps=3, gamma=0.9, train_freq=(2, "step"), ent_coef=0.2)
    models = [
        cls.load(tmp_path / "sac.zip", env=vec_env(), device="cpu").learn(40, reset_num_timesteps=False)
        for cls in (stable_baselines3.SAC, rlopt.SAC)
    ]
    wanted, found = (model.get_parameters() for model in models)
    assert models[1].num_timesteps == 104 and models[1].n_steps == 3
    assert wanted.keys() == found.keys()
    for name, value in wanted["policy"].items():
        assert torch.equal(value, found["policy"][name]), name


@pytest.mark.parametrize("base", [stable_baselines3.SAC, rlopt.SAC])
def test_sac_begins_off_policy_mdpo(base: Any, tmp_path: Path) -> None:
    sac = trained(base, tmp_path / "sac.zip", gamma=0.9)
    model = rlopt.OffPolicyMDPO.load(tmp_path / "sac.zip", env=vec_env(), device="cpu", kl_coef=0.3)
    assert (model.gamma, model.kl_coef, model.num_timesteps) == (0.9, 0.3, 64)
    assert model.old_actor is not None
    for own, theirs in zip(model.old_actor.parameters(), sac.actor.parameters(), strict=True):
        assert torch.equal(own, theirs)
    ours, wanted = model.critic.optimizer.state_dict(), sac.critic.optimizer.state_dict()
    assert torch.equal(ours["state"][0]["exp_avg"], wanted["state"][0]["exp_avg"])
    assert torch.equal(model.log_ent_coef, sac.log_ent_coef)
    assert model.learn(20, reset_num_timesteps=False).num_timesteps == 84


def test_the_old_policy_comes_and_goes_with_its_weight(tmp_path: Path) -> None:
    """To 0 and back: pi_k is then the policy that is loaded, as it is where the attribute is set."""
    trained(rlopt.OffPolicyMDPO, tmp_path / "with.zip", kl_coef=0.1)
    without = rlopt.OffPolicyMDPO.load(tmp_path / "with.zip", env=vec_env(), kl_coef=0.0, device="cpu")
    assert without.old_actor is None
    without.learn(20).save(tmp_path / "without.zip")
    again = rlopt.OffPolicyMDPO.load(tmp_path / "without.zip", env=vec_env(), kl_coef=0.1, device="cpu")
    assert again.old_actor is not None
    for own, theirs in zip(again.old_actor.parameters(), again.actor.parameters(), strict=True):
        assert torch.equal(own, theirs)
    without.kl_coef = 0.1
    without.learn(20)
    assert "train/kl" in without.logger.name_to_value


@pytest.mark.parametrize("share", [True, False])
def test_ppo_begins_mdpo(share: bool, tmp_path: Path) -> None:
    """Weights, what Adam remembers of each parameter, and the settings that both have."""
    options = {"policy_kwargs": {"net_arch": [8]} | ({} if share else {"share_features_extractor": False})}
    ppo = trained(stable_baselines3.PPO, tmp_path / "ppo.zip", gamma=0.9, clip_range_vf=0.3, **options)
    model = rlopt.MDPO.load(tmp_path / "ppo.zip", env=vec_env(), device="cpu", n_epochs=3)
    assert (model.gamma, model.clip_range_vf, model.batch_size, model.n_steps) == (0.9, 0.3, 16, 32)
    assert model.n_epochs == 3 and model.num_timesteps == ppo.num_timesteps
    theirs = dict(ppo.policy.named_parameters())
    for optimizer, part in ((model.policy.optimizer, "policy_net"), (model.value_optimizer, "value_net")):
        named = {id(p): name for name, p in model.policy.named_parameters()}
        names = [named[id(p)] for p in optimizer.param_groups[0]["params"]]
        assert any(part in name for name in names)
        for name, parameter in zip(names, optimizer.param_groups[0]["params"], strict=True):
            assert torch.equal(parameter, theirs[name])
            wanted = ppo.policy.optimizer.state[theirs[name]]
            assert torch.equal(optimizer.state[parameter]["exp_avg"], wanted["exp_avg"])
            assert float(optimizer.state[parameter]["step"]) == float(wanted["step"])
    model.learn(32)


def test_a_shared_image_extractor_of_ppo_becomes_two(tmp_path: Path) -> None:
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    env = SpacesOnlyVecEnv(1, image, spaces.Discrete(2))
    ppo = stable_baselines3.PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu")
    for parameter in ppo.policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    ppo.policy.optimizer.step()
    ppo.save(tmp_path / "ppo.zip")
    model = rlopt.MDPO.load(tmp_path / "ppo.zip", device="cpu")
    shown = torch.randint(0, 256, (3, 1, 36, 36), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.policy.predict_values(shown), ppo.policy.predict_values(shown))
        ours, theirs = (p.get_distribution(shown).distribution.logits for p in (model.policy, ppo.policy))
        assert torch.equal(ours, theirs)
    extractor = model.policy.vf_features_extractor
    assert extractor is not model.policy.pi_features_extractor
    first = next(extractor.parameters())
    wanted = ppo.policy.optimizer.state[next(ppo.policy.features_extractor.parameters())]["exp_avg"]
    assert torch.equal(model.value_optimizer.state[first]["exp_avg"], wanted)


def test_a_zip_of_another_kind_of_policy_is_refused(tmp_path: Path) -> None:
    trained(stable_baselines3.PPO, tmp_path / "ppo.zip")
    trained(stable_baselines3.SAC, tmp_path / "sac.zip")
    for cls, name in ((rlopt.SAC, "ppo"), (rlopt.MDPO, "sac"), (rlopt.IQL, "sac")):
        with pytest.raises(CheckpointError, match="cannot act with: load it with the class that wrote it"):
            cls.load(tmp_path / f"{name}.zip")
    with pytest.raises(CheckpointError, match="networks that differ"):
        rlopt.IQLearn.load(tmp_path / "sac.zip")  # one critic, and there are two


def test_what_was_set_by_attribute_is_kept(tmp_path: Path) -> None:
    model = rlopt.SAC("MlpPolicy", Reach(), buffer_size=50, device="cpu", policy_kwargs={"net_arch": [4]})
    model.gamma, model.target_entropy, model.mine = 0.5, -7.0, "note"
    model.save(tmp_path / "model.zip")
    loaded = rlopt.SAC.load(tmp_path / "model.zip", device="cpu")
    assert (loaded.gamma, loaded.target_entropy, loaded.mine) == (0.5, -7.0, "note")
    assert rlopt.SAC.load(tmp_path / "model.zip", gamma=0.25).gamma == 0.25


@pytest.mark.parametrize("name", DEEP)
def test_constructors_make_the_networks_that_the_settings_declare(name: str) -> None:
    """As many critics, as wide layers and the same activation as the command line's defaults."""
    declared = resolve(AGENTS[name].config)().algorithm_kwargs()["policy_kwargs"]
    env = SpacesOnlyVecEnv(1, *spaces_of(name))
    small = {"buffer_size": 10} if "buffer_size" in inspect.signature(DEEP[name].__init__).parameters else {}
    plain, stated = (
        DEEP[name]("MlpPolicy", env, device="cpu", **small, **options) for options in ({}, {"policy_kwargs": declared})
    )
    assert repr(plain.policy) == repr(stated.policy)


class Quiet(rlopt.MDPO):
    """A subclass whose constructor hands on what it does not know, as people write them."""

    def __init__(self, *args: Any, volume: float = 0.5, **settings: Any) -> None:
        self.volume = volume
        super().__init__(*args, gamma=0.5, **settings)


def test_a_subclass_that_hands_its_arguments_on_is_loaded_as_in_stable_baselines(tmp_path: Path) -> None:
    model = Quiet("MlpPolicy", Reach(), volume=0.25, n_steps=8, device="cpu", policy_kwargs={"net_arch": [4]})
    model.learn(8).save(tmp_path / "quiet.zip")
    loaded = Quiet.load(tmp_path / "quiet.zip", env=Reach(), device="cpu", learning_rate=1e-5)
    assert (loaded.volume, loaded.gamma, loaded.n_steps, loaded.num_timesteps) == (0.25, 0.5, 8, 8)
    loaded.learn(8)
    assert loaded.value_optimizer.param_groups[0]["lr"] == loaded.policy.optimizer.param_groups[0]["lr"] == 1e-5


@pytest.mark.parametrize("names", [("value_optimiser",), ("policy.value_optimiser",)])
def test_a_part_to_save_that_does_not_exist_is_no_part_that_is_none(names: tuple[str, ...], tmp_path: Path) -> None:
    def saved(names: tuple[str, ...]) -> None:
        kind: Any = type("Mine", (rlopt.MDPO,), {"saved_modules": names, "further": None, "__module__": __name__})
        model = kind("MlpPolicy", Reach(), n_steps=8, device="cpu", policy_kwargs={"net_arch": [4]})
        model.save(tmp_path / "model.zip")

    with pytest.raises(AttributeError, match="no attribute 'value_optimiser'"):
        saved(names)
    saved(("further", "further.optimizer"))


@pytest.mark.parametrize("name", DEEP)
def test_a_setting_that_is_excluded_is_the_default_again(name: str, tmp_path: Path) -> None:
    model = built(name, verbose=1)
    model.save(tmp_path / "model.zip", exclude=["verbose"])
    assert DEEP[name].load(tmp_path / "model.zip", device="cpu").verbose == 0
    model.save(tmp_path / "model.zip", exclude=["verbose"], include=["verbose"])
    assert DEEP[name].load(tmp_path / "model.zip", device="cpu").verbose == model.verbose == 1
    assert model.constructor_settings["verbose"] == 1


@pytest.mark.parametrize("name", ["gail", "value_dice"])
def test_a_setting_is_read_by_the_name_that_it_had_in_version_0_1(name: str, tmp_path: Path) -> None:
    model = built(name, gradient_penalty=3.5)
    model.constructor_settings["penalty_coef"] = model.constructor_settings.pop("gradient_penalty")
    del model.gradient_penalty
    model.penalty_coef = 3.5
    model.save(tmp_path / "former.zip")
    assert DEEP[name].load(tmp_path / "former.zip").gradient_penalty == 3.5
    config_class = resolve(AGENTS[name].config)
    found = without_former(config_class, {"penalty_coef": 3.5, "gamma": 0.5}, "config.json")
    assert found.pop("gradient_penalty") == 3.5 and "penalty_coef" not in found and found["gamma"] == 0.5
    assert split_settings({"penalty_coef": 3.5}, config_class, "preset p")[1] == {"gradient_penalty": 3.5}
    with pytest.raises(UnknownNameError, match="did you mean 'gradient_penalty'"):
        built(name, penalty_coef=3.5)


def test_a_zip_with_a_setting_that_is_gone_is_read_or_refused_as_a_checkpoint_is(tmp_path: Path) -> None:
    model = built("deep_loop")
    model.constructor_settings["kl_coef"] = 0.0
    model.save(tmp_path / "without.zip")
    rlopt.DeepLOOP.load(tmp_path / "without.zip")
    model.constructor_settings["kl_coef"] = 0.3
    model.save(tmp_path / "with.zip")
    with pytest.raises(ConfigError, match=r"kl_coef = 0\.3 is of version 0\.1"):
        rlopt.DeepLOOP.load(tmp_path / "with.zip")


@pytest.mark.parametrize(("writer", "reader"), [("mdpo", "ppo"), ("ppo", "mdpo"), ("off_policy_mdpo", "sac")])
def test_a_zip_of_another_agent_says_whose_it_is(writer: str, reader: str, tmp_path: Path) -> None:
    path = zipped(writer, tmp_path)
    with pytest.raises(CheckpointError, match=f"was written by {DEEP[writer].__name__}: load it with"):
        DEEP[reader].load(path, device="cpu")
    mine = type("Mine", (DEEP[writer],), {})
    assert not hasattr(mine.load(path, device="cpu"), "saved_by")
