"""Evaluation by rules that need no judge: what a text shows by itself. Standard library only.

measures.py    every rule over a policy's responses, beside the start's, with 95 % intervals
next_step.py   whether a support reply names a concrete next step
refusals.py    whether a response refuses
sentences.py   the sentences of a text
"""
