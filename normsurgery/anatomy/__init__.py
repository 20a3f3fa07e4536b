"""What the tensors of a checkpoint mean, read off a trace of a tiny twin of the model."""
