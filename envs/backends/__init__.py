"""The two backends behind one VecEnv: EnvPool, and Gymnasium."""
