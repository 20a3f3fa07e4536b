"""Data in, statistics out: text as rows of ids, and what a model does with them block by block."""
