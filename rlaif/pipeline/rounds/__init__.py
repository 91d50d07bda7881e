"""`rounds:` of a recipe: a part of its graph, repeated on fresh prompts until nothing is gained.

config.py   the settings, and the rule by which rounds stop
loop.py     which stages a round repeats, and whether they feed themselves
expand.py   the recipe with a stage for every stage of every round
"""
