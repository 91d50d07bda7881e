"""`rlaif compare`: a recipe made of a recipe, with a stage for every method and seed.

budget.py   budgets of reads, tokens and seconds, as the command takes them
arms.py     the methods by name, and their settings from a recipe
plan.py     the recipe of a comparison
run.py      a whole comparison, and what one would do
"""
