"""Differential DQN: deep Q-learning for the average reward, with Discrete actions."""
