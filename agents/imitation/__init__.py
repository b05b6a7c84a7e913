"""Imitation learners other than AILBoost and DAC: SQIL, IQ-Learn, ValueDICE, DAgger, GAIL and AIRL."""
