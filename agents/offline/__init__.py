"""Offline learners: BC, TD3+BC, AWAC, IQL, CQL and ReBRAC, trained from a data set resident on the device."""
