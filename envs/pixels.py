"""Pixel observations on the gymnasium backend."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class PixelObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """Replaces the observation by the rendered image, uint8 [3, size, size]; images of another size are resampled."""

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self._size = size
        self.observation_space = spaces.Box(0, 255, (3, size, size), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        image = np.asarray(self.env.render())
        if image.shape[:2] != (self._size, self._size):
            from PIL import Image

            resized = Image.fromarray(image).resize((self._size, self._size), Image.Resampling.BOX)
            image = np.asarray(resized)
        return np.ascontiguousarray(image.transpose(2, 0, 1))


class StateAndPixels(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observes the state and the image of the same moment, as a dictionary with the keys ``state`` and ``pixels``.

    :param drawn: the environment as it is seen in images; its state is what lies under them
    :param action_repeat: steps of one action: as drawing takes longest, in between them the last image is shown again
    """

    def __init__(self, drawn: PixelObservation, action_repeat: int = 1) -> None:
        super().__init__(drawn.env)
        self._drawn, self._repeat, self._steps = drawn, action_repeat, 0
        self._image: Any = None
        entries = {"state": drawn.env.observation_space, "pixels": drawn.observation_space}
        self.observation_space = spaces.Dict(entries)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        state, info = self.env.reset(**arguments)
        self._steps = 0
        return self._observed(state, draw=True), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        over = terminated or truncated
        return self._observed(state, over or self._steps % self._repeat == 0), reward, terminated, truncated, info

    def _observed(self, state: Any, draw: bool) -> dict[str, Any]:
        if draw:
            self._image = self._drawn.observation(state)
        return {"state": state, "pixels": self._image}
