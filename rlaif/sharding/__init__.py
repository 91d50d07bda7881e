"""The shards of one folder made from those of another: by this process, or by many that share them.

part.py       --part i/n: which shards are this process's
run.py        shard after shard: skipped, locked, made, given its name; what failed is set aside
jobs.py       what a kind of work has to say of itself
sampling.py   prompts → samples
labeling.py   samples → labels
revising.py   samples → lessons, and pairs of revisions with their originals
judge.py      the judge of the latter two
scoring.py    samples → samples with their scores by a reward

A shard of the result is made from the shard of the same name and from settings, nothing else. Its
file is the checkpoint: whoever makes it may be killed at any time, and two who make the same one
write the same rows, of which the first file stands.
"""
