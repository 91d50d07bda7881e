"""Evaluation by rules that need no judge: what a text shows by itself. Standard library only.

measures.py    every rule over a policy's responses, beside the start's, with 95 % intervals
facts.py       whether an answer to a question of common knowledge is right, wrong or declined
facts.jsonl    the accepted answers to the questions that ship
flips.py       McNemar's test of a change on the same prompts
next_step.py   whether a support reply names a concrete next step
refusals.py    whether a response refuses
sentences.py   the sentences of a text
"""
