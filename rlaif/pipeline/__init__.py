"""Recipes: any pipeline from prompts to evaluated policies, as a graph of named stages.

recipe.py       Recipe, one YAML file with everything a run depends on
stage.py        a stage: what it takes, gives and depends on; the base of all kinds
kinds/          the kinds of stages, one file each
options.py      what stages can say besides their inputs and settings
references.py   what the inputs of a stage refer to
graph.py        stages with their sources, types checked, in order
drawing.py      the graph as text and as a Mermaid diagram
context.py      what a recipe brings along for all stages: prompts, their split, judges
scores.py       the scores that PPO and ReST train against
runner.py       runs stages; skips those whose inputs did not change
run.py          a whole run, and what one would do
fleet/          stages whose rows are made by the workers of a Ray cluster
comparing/      a recipe that compares the training methods of another one
rounds/         a part of a recipe, repeated until nothing is gained
machine_fit.py  predicted minutes on this machine, and the prompts they leave time for
recipes/        the recipes that ship
"""
