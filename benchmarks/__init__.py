"""Figures: what a model costs, how fast it runs, and whether it still restores the same picture."""
