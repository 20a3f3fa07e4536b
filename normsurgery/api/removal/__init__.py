"""The parts of `remove_ln`: what was asked, the text, the control, the training, the export."""
