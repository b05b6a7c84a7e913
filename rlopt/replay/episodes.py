"""Where the running episodes of a replay buffer end."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.replay.rows import stored_part


def cut_episodes(buffer: ReplayBuffer | None) -> None:
    """Marks the running episodes as cut off, because the next transition to be stored begins new ones."""
    if buffer is None or (buffer.pos == 0 and not buffer.full):
        return
    dones, timeouts = stored_part(buffer, "dones"), stored_part(buffer, "timeouts")
    if isinstance(buffer, HerReplayBuffer):
        unfinished = buffer._current_ep_start != buffer.pos
        for index in np.flatnonzero(unfinished):
            dones[buffer.pos - 1, index] = 1
            buffer._compute_episode_length(int(index))
            if buffer.handle_timeout_termination:
                timeouts[buffer.pos - 1, index] = 1
    elif isinstance(buffer, NStepReplayBuffer):
        # n-step returns stop at a timeout and bootstrap there; a plain timeout has done = 1 too. Where the episode is
        # not done this gives 1, elsewhere what was there.
        row = buffer.pos - 1
        timeouts[row] = 1 - dones[row] * (1 - timeouts[row])
    elif buffer.optimize_memory_usage:
        # Its next observation is about to be overwritten; Stable-Baselines3 does the same (_setup_learn).
        dones[buffer.pos - 1] = 1
