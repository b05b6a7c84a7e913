"""Environments: any Gymnasium id and dm_control task, on Gymnasium or EnvPool, behind one SB3 ``VecEnv``."""
