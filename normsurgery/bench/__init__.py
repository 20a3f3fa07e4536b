"""How fast models are, how much memory they take, and how well they do on tasks and text."""
