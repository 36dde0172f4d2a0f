"""Training: recipes, the two stages, their losses and rewards."""
