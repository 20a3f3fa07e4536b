"""Norms of a live model: their paths, their statistics, and how they are frozen."""
