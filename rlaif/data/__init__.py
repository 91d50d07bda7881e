"""Records that travel between stages, and their files.

records.py       Prompt, Sample, Preference, Demonstration, PlainText; JSONL and Parquet
rows.py          rows of JSONL, JSON arrays and Parquet, or an error with its place
formats/         data sets made by others: how their rows become our records
datasets.py      files of preferences and of responses to imitate → records
notes.py         what a reading left out, in one line
convert.py       a public data set → a file of records
samples.py       responses to judge, ours or anybody's
cut_off.py       responses that a length limit cut off: carried, counted, left out
prompts.py       prompts by name or from a file
prompt_split.py  the split of prompts into training and held-out ones
shards/          folders of shards: one data set in many files
journal.py       an append-only file that survives kill -9 and a full disk
files.py         digests of files, and the error of one that cannot be read
"""
