"""A corpus: labeled pairs tokenized once, in files that every process of a host maps into memory.

    corpus/
        manifest.json       what it was made of, and what it holds (manifest.py)
        ids.npy …           one flat file a column (columns.py)
        rows/               rows that some settings leave (selection.py)
        reference/          log-probs of a reference (rlaif/algorithms/dpo/reference_file.py)

manifest.py     what the tokens depend on, and who is refused
columns.py      the columns of a corpus, and of the parts that it is put together from
prepare.py      labels → a corpus, in parts that outlive a kill
mapped.py       a corpus as a sequence of pairs, read from disk when used
selection.py    the pairs that some settings leave, without a list of them
order.py        the order of batches as a function of (seed, epoch, place)
"""
