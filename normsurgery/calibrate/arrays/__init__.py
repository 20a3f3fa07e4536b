"""Images, sounds and arrays from files, as the inputs of a model."""
