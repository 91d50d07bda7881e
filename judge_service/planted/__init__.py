"""A simulated judge whose true preferences are known: for experiments, never for real labels.

gold.py        traits by rule over (conversation, response): what is truly better
writer.py      critiques and revisions by small edits, better or worse
corrupter.py   the errors of the judge: wrong labels, length bias, position bias, annotators
file.py        the YAML file that describes such a judge
question.py    what a judge's prompt asks, parsed from its text alone
tokenizer.py   bytes as tokens, and the labels

The engine is judge_service/engines/planted.py. Whatever it judges is named `planted:…` in receipts,
statistics, evaluations and reports.
"""
