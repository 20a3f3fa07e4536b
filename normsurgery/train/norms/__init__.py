"""Norms that are frozen path by path in a live model.

Source: "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559.
"""
