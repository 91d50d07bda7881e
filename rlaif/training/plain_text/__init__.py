"""Held-out plain text: what a policy unlearns of ordinary language while it trains.

source.py      which text, found and checked before anything is loaded; no torch
score.py       the policy's loss on it beside the start's
held_out.txt   the text that ships: written for this project, under its license
"""
