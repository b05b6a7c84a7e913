"""The policy in a zip file of Stable-Baselines3's ``save``, read without its pickles.

Such a file has the network's tensors apart from everything else, and beside each pickled setting its parts in plain
JSON. Those and the environment's spaces are enough to build SB3's own multi-layer perceptron policies.
"""

import io
import pickletools
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from rlopt.checkpoint.load import require_widths
from rlopt.checkpoint.vec_normalize_file import ObservationStatistics, read_vec_normalize
from rlopt.errors import CheckpointError, one_line, resource_error
from rlopt.storage.budget import Budget
from rlopt.storage.json import parse_json

_POLICIES: dict[str, Any] = {
    "stable_baselines3.common.policies": ActorCriticPolicy,
    "stable_baselines3.dqn.policies": DQNPolicy,
    "stable_baselines3.sac.policies": SACPolicy,
    "stable_baselines3.td3.policies": TD3Policy,
}
_PLAIN = ("net_arch", "log_std_init", "n_critics", "share_features_extractor", "ortho_init", "use_expln", "clip_mean")
_ACTIVATIONS = ("ELU", "GELU", "LeakyReLU", "Mish", "ReLU", "SELU", "SiLU", "Softplus", "Tanh")
_NAMES = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch DoubleStorage")
_OTHER_CALLS = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
_MOST_COPIED = 2**24
_CURE = (
    "load it with its own class in Python, if you trust its source, because that unpickles, and give the model to "
    "rlopt.collect.record_demonstrations"
)


def read_policy(
    path: Path,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    device: str = "cpu",
    vec_normalize: Path | Literal["none"] | None = None,
) -> Any:
    """What acts as the saved model does on the environment's own observations: an object with ``predict``, ``policy``
    and the two spaces.

    :param vec_normalize: file of ``VecNormalize.save`` with the statistics of its training, which are not in the zip;
        "none" for a model that was trained without, or with one that normalised rewards alone
    :raises rlopt.errors.CheckpointError: no such file, damaged, of other spaces, a policy that is not a plain MLP, or a
        model that was trained in a VecNormalize whose statistics are not given
    """
    try:
        with zipfile.ZipFile(path) as file:
            budget = Budget(path.stat().st_size)
            data = parse_json(_member(file, "data", budget))
            content = _member(file, "policy.pth", budget)
        tensors = _tensors(content, device)
        if vec_normalize is None and data.get("_last_original_obs") is not None:
            raise CheckpointError(
                f"{path} was trained in a VecNormalize, whose statistics are not in it: give their file, "
                "--vecnormalize FILE.pkl, or --vecnormalize none if it normalised rewards alone"
            )
        statistics = None
        if vec_normalize is not None and vec_normalize != "none":
            statistics = read_vec_normalize(vec_normalize, observation_space)
        return _build(path, data, tensors, observation_space, action_space, device, statistics)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give a run folder or a zip file") from None
    except Exception as error:  # a damaged or foreign file fails in many ways, none of which runs its code
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{path} holds no policy of Stable-Baselines3 that can be read ({reason})") from None


def _member(file: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    """A member as it lies there: Stable-Baselines3 and torch compress nothing, and what is compressed may be huge."""
    info = file.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    budget.charge(info.file_size, name)
    return file.read(info)


def _tensors(content: bytes, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a file of ``torch.save``, by name; only what torch writes for tensors is read.

    :raises ValueError: it names something else, is compressed, or would take more memory than it has bytes
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        budget = Budget(len(content))
        for name in file.namelist():
            member = _member(file, name, budget)
            if name.endswith(".pkl"):
                _check_structure(member)
    tensors = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError("policy.pth holds more than tensors by name")
    return tensors


def _check_structure(content: bytes) -> None:
    """Refuses what torch's reader takes beyond the tensors of a network, such as a bytearray of any size."""
    calls = 0
    for operation, argument, _ in pickletools.genops(content):
        if (operation.name == "GLOBAL" and argument not in _NAMES) or operation.name in _OTHER_CALLS:
            raise ValueError(f"policy.pth names {argument or operation.name}")
        calls += operation.name in ("REDUCE", "BUILD")
    if calls * len(content) > _MOST_COPIED:  # each call may copy all that was read before it
        raise ValueError("policy.pth has more parts than a plain MLP")


def _build(
    path: Path,
    data: Any,
    tensors: Any,
    observation_space: Any,
    action_space: Any,
    device: str,
    statistics: ObservationStatistics | None,
) -> Any:
    module = data["policy_class"]["__module__"]
    if module not in _POLICIES:
        raise CheckpointError(f"{path} has a policy of {one_line(module)}, none of Stable-Baselines3's own: {_CURE}")
    arguments = _arguments(path, data)
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    require_widths(arguments, sum(stored.values()) // 4)
    policy = _POLICIES[module](observation_space, action_space, lr_schedule=lambda _: 0.0, **arguments)
    try:
        policy.load_state_dict(tensors)
    except RuntimeError:
        raise CheckpointError(
            f"{path} holds other networks than an MLP for {observation_space.shape} observations and {action_space}: "
            f"give the environment (id, action repeat) that it was trained in, or {_CURE}"
        ) from None
    policy.to(device).set_training_mode(False)

    def predict(observation: Any, *arguments: Any, **named: Any) -> Any:
        seen = observation if statistics is None else statistics.normalize_obs(observation)
        return policy.predict(seen, *arguments, **named)

    return SimpleNamespace(
        policy=policy,
        predict=predict,
        observation_space=observation_space,
        action_space=action_space,
        sde_sample_freq=int(data.get("sde_sample_freq", -1)),
    )


def _arguments(path: Path, data: Any) -> dict[str, Any]:
    """The policy's constructor arguments that are there in plain JSON."""
    stored = {name: value for name, value in data["policy_kwargs"].items() if not name.startswith(":")}
    arguments = {name: stored.pop(name) for name in _PLAIN if name in stored}
    use_sde = bool(stored.pop("use_sde", False) or data.get("use_sde", False))
    if use_sde:
        arguments["use_sde"] = True
    if "activation_fn" in stored:
        found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(stored.pop("activation_fn")))
        if not found or found[1] not in _ACTIVATIONS:
            raise CheckpointError(f"{path} has an activation function that is none of torch's own: {_CURE}")
        arguments["activation_fn"] = getattr(torch.nn, found[1])
    for name in ("optimizer_class", "optimizer_kwargs"):  # of no importance for acting
        stored.pop(name, None)
    if stored:
        raise CheckpointError(f"{path} has the policy argument {one_line(min(stored))}, not a plain MLP's: {_CURE}")
    return arguments
