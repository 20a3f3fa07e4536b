"""How much each run of blocks matters, from one pass over a text."""
