"""Recipes: the whole loop from prompts to evaluated policies, stage by stage.

recipe.py       Recipe, one YAML file with everything a run depends on
stages.py       a recipe's stages, their order and their inputs; run and dry run
context.py      what each stage does
runner.py       runs stages in order; skips those whose inputs did not change
machine_fit.py  predicted minutes on this machine, and the prompts they leave time for
recipes/        the recipes that ship
"""
