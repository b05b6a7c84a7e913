"""Policies as flat vectors of parameters, many of them acting side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, feature_count, features
from rlopt.algorithms.arguments import check_real_actions
from rlopt.errors import SpaceError


class PolicyVector(Protocol):
    """A deterministic policy whose parameters are one vector."""

    dimension: int
    """Number of parameters d."""
    takes_features: bool
    """Whether :meth:`act` wants (normalised) features, see :mod:`rlopt.agents.zo_ranksgd.policies.observations`; raw
    observations otherwise."""

    def initial(self) -> FloatArray:
        """``[d]`` float64: where a search begins."""
        ...

    def prepare(self, parameters: FloatArray) -> Any:
        """What :meth:`act` needs of ``parameters`` ``[n, d]``, computed once for many steps."""
        ...

    def act(self, prepared: Any, inputs: Any) -> npt.NDArray[Any]:
        """The action of each of n policies ``[n, *action]`` on its own one of n inputs; one policy acts on all.

        Each action is computed by operations whose shapes do not depend on n: it is bit for bit the same alone.
        """
        ...


class Actions:
    """Turns the outputs of a policy into actions.

    :param space: a box, or finitely many actions
    :param scaled: whether outputs in [-1, 1] are stretched over the bounds of a box, and clipped to them
    :raises rlopt.errors.SpaceError: for other spaces
    """

    def __init__(self, space: spaces.Space[Any], scaled: bool) -> None:
        self.space = space
        self._middle: npt.NDArray[Any] | None = None
        if isinstance(space, spaces.Box):
            check_real_actions(space)
            self.size = int(np.prod(space.shape))
            if scaled and space.is_bounded():
                low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
                self._middle, self._half = (low + high) / 2, (high - low) / 2
        elif isinstance(space, spaces.Discrete):
            self.size = int(space.n)
        elif isinstance(space, spaces.MultiDiscrete):
            self.size = int(space.nvec.sum())
        elif isinstance(space, spaces.MultiBinary):
            self.size = int(np.prod(space.shape))
        else:
            raise SpaceError(f"actions of {space} cannot be searched: give an environment with a box or finitely many")

    def of(self, outputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Actions ``[n, *shape]`` of outputs ``[n, size]``; those of a box are not finite where outputs are not."""
        space, count = self.space, len(outputs)
        if isinstance(space, spaces.Box):
            if self._middle is not None:
                outputs = self._middle + self._half * np.minimum(np.maximum(outputs, -1.0), 1.0)
            return outputs.reshape(count, *space.shape)
        if isinstance(space, spaces.Discrete):
            return np.argmax(outputs, axis=1) + space.start
        if isinstance(space, spaces.MultiBinary):
            return (outputs > 0).astype(np.int8).reshape(count, *space.shape)
        assert isinstance(space, spaces.MultiDiscrete)
        edges = np.cumsum(np.ravel(space.nvec))[:-1]
        columns = [np.argmax(part, axis=1) for part in np.split(outputs, edges, axis=1)]
        return np.stack(columns, axis=1).reshape(count, *space.shape) + space.start


class LinearPolicy:
    """Actions linear in the features of an observation, the policy of augmented random search (arXiv 1803.07055).

    An output of 1 or -1 is the upper or lower bound of a box, beyond which it is clipped; of finitely many actions the
    one with the largest output is taken. The parameters are the matrix, row by row, then the bias. float64.

    :param bias: whether outputs have a constant part
    :raises rlopt.errors.SpaceError: for spaces without vectors
    """

    takes_features = True

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], bias: bool = True
    ) -> None:
        self.observation_space, self.action_space, self.bias = observation_space, action_space, bias
        self.actions = Actions(action_space, scaled=True)
        self._inputs = feature_count(observation_space)
        self.dimension = self.actions.size * (self._inputs + bias)

    def initial(self) -> FloatArray:
        """``[d]`` zeros."""
        return np.zeros(self.dimension)

    def prepare(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Weights ``[n, outputs, features]`` and biases ``[n, outputs]``, or None, of ``parameters`` ``[n, d]``."""
        count, outputs = len(parameters), self.actions.size
        split = outputs * self._inputs
        weights = np.ascontiguousarray(parameters[:, :split]).reshape(count, outputs, self._inputs)
        return weights, parameters[:, split:] if self.bias else None

    def act(self, prepared: tuple[FloatArray, FloatArray | None], inputs: FloatArray) -> npt.NDArray[Any]:
        """Actions ``[n, *action]`` of n policies on features ``[n, features]``, one each; one policy acts on all."""
        weights, bias = prepared
        outputs = np.matmul(weights, inputs[:, :, None])[:, :, 0]
        return self.actions.of(outputs if bias is None else outputs + bias)


@dataclass(frozen=True)
class Layer:
    """A fully connected layer of a network."""

    inputs: int
    outputs: int
    has_bias: bool
    activation: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


class NetworkPolicy:
    """A fully connected network, many of them acting side by side in numpy. float32, as in torch.

    The parameters are weight (row by row) and bias of each layer in turn, as torch's ``parameters_to_vector`` has them.

    :param layers: of the network
    :param initial: ``[d]``, the parameters of the network as it was made
    :param scaled: whether outputs are stretched over the bounds of a box
    """

    takes_features = True

    def __init__(
        self, action_space: spaces.Space[Any], layers: tuple[Layer, ...], initial: FloatArray, scaled: bool
    ) -> None:
        self.action_space, self.layers, self._initial = action_space, layers, initial
        self.actions = Actions(action_space, scaled)
        self.dimension = sum(layer.outputs * (layer.inputs + layer.has_bias) for layer in layers)

    def initial(self) -> FloatArray:
        """``[d]`` float64: the parameters of the network as it was made. A copy."""
        return self._initial.copy()

    def prepare(self, parameters: FloatArray) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]]:
        """Weights ``[n, outputs, inputs]`` and biases, or None, of each layer, float32, of parameters ``[n, d]``."""
        values, position, prepared = parameters.astype(np.float32), 0, []
        for layer in self.layers:
            size = layer.outputs * layer.inputs
            weights = np.ascontiguousarray(values[:, position : position + size])
            position += size
            bias = values[:, position : position + layer.outputs] if layer.has_bias else None
            position += layer.outputs * layer.has_bias
            prepared.append((weights.reshape(len(values), layer.outputs, layer.inputs), bias))
        return prepared

    def act(self, prepared: Any, inputs: FloatArray) -> npt.NDArray[Any]:
        """Actions ``[n, *action]`` of n networks on features ``[n, features]``, one each; one network acts on all."""
        hidden = inputs.astype(np.float32)
        for layer, (weights, bias) in zip(self.layers, prepared, strict=True):
            outputs = np.matmul(weights, hidden[:, :, None])[:, :, 0]
            hidden = layer.activation(outputs if bias is None else outputs + bias)
        return self.actions.of(hidden)


def inputs_of(policy: PolicyVector, space: spaces.Space[Any], observations: Any) -> Any:
    """What a policy sees of a batch of observations, before normalisation."""
    return features(space, observations) if policy.takes_features else observations
