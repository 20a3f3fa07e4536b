"""A result on the Hub: what may go there, and how it gets there. Files, not models."""
