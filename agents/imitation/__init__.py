"""Imitation learners beside AILBoost and DAC: SQIL, IQ-Learn, ValueDICE, DAgger, GAIL and AIRL."""
