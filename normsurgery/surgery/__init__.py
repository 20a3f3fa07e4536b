"""Surgeries: pure functions from a checkpoint to a checkpoint with a receipt."""
