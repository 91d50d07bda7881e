"""Stages that `rounds:` of a recipe adds.

evaluate_round.py   a round's policy against the start and the round before; may end the rounds
keep_round.py       the model of the round that is kept
"""
