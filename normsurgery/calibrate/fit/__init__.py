"""Weights fitted in closed form to what a text makes of the original."""
