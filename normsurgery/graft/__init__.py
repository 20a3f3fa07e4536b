"""The replacement modules, and the modeling file that carries them beside a checkpoint."""
