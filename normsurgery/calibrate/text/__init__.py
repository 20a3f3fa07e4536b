"""Text in, rows of token ids out."""
