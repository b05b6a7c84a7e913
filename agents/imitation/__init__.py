"""Imitation learners beside AILBoost and DAC: SQIL, IQ-Learn, ValueDICE and GAIL."""
