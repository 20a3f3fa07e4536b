"""The folds of `fold`: which apply, in what order, and their proof."""
