"""Norms removed while the model trains: schedule, clock, control."""
