"""Token ids in dense batches, and the log-probabilities computed from them.

chat.py             a model's chat template: prompts, the end of a turn, its settings
rows.py             a response to a prompt, and a pair of them, as token ids
encode.py           prompts and pairs as token ids, padded batches, the order of batches
prefix_sharing.py   several responses to one prompt in one row, the prompt computed once
origins.py          the file of a record, in errors that name the record
unusable.py         what to do with records that cannot be trained on: fail or skip
logprobs.py         token log-probabilities, KL estimators, masked statistics
corpus/             pairs tokenized once, in files that processes share
"""
