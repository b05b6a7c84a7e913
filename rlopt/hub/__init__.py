"""Trained agents for others: a run's policy as a small folder with a model card, and the Hugging Face Hub."""
