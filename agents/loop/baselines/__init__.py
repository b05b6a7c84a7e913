"""Peers of LOOP for average reward, behind the same interface."""
