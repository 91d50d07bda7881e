"""Feedback from a judge server: labels, revisions and scores, with the receipts that prove them.

client.py           a judge server for training: start one or connect; scores, held-out comparison
connection.py       a server's address, with a token and TLS files from flags or the environment
labeler.py          judge pairs once, resumably, and write them as a labeled set
pairs.py            samples → pairs to compare; content digests
filter.py           responses that break a principle, dropped before they are paired
labelers.py         who labeled: the models that the receipts of labels name
receipts.py         a judgment as a label with its receipt, and back
counts.py           running counts and means of judgments
earlier_labels.py   what happens to labels in the folder that were made differently
revisions/          critique and revision of samples: lessons for supervised fine-tuning, and pairs
undecided.py        labels that hardly tell the responses apart
trl_reward.py       the judge as a reward function of TRL's trainers
"""
