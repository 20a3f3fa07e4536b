"""Gradient steps: a checkpoint that was cut or rewritten learns back what it lost."""
