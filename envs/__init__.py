"""Environments: any Gymnasium id and dm_control task, on Gymnasium or EnvPool, behind one Stable-Baselines3 ``VecEnv``."""
