"""Records that travel between stages, and their files.

records.py       Prompt, Sample, Preference, Demonstration, PlainText; JSONL and Parquet
datasets.py      files of preferences and of responses to imitate → records
trl_format.py    rows of data sets made for other trainers → records
prompts.py       prompts by name or from a file
prompt_split.py  the split of prompts into training and held-out ones
journal.py       an append-only file that survives kill -9 and a full disk
files.py         digests of files
"""
