"""The census: every architecture that the installed transformers can build, tried and tabled."""
