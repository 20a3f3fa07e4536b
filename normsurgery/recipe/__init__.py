"""Recipes: a YAML file that names a source, the steps to take, and an output."""

from normsurgery.recipe.read import Recipe, RecipeStep, options_of, read_recipe, recipe_of

__all__ = ["Recipe", "RecipeStep", "options_of", "read_recipe", "recipe_of"]
