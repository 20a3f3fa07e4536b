"""timm checkpoints. timm lives beside the test environment, see environment.py."""
