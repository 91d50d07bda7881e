"""The judge's questions, and how their answers become labels.

judge.py                 Judge: compare, rank, score, critique, revise over an Engine
prompts.py               the prompt texts, by protocol
template.py              a prompt in a model's chat format, as token ids
pair_prompts.py          the responses, principles and prefixes of a comparison
prompt_runner.py         runs the prompts of a request on the engine
label_probs.py           label log-probabilities -> probability and label mass
aggregation.py           reads over orders and principles -> one soft label
ranking.py               pair probabilities -> Bradley-Terry strengths
paced/                   tokenizing and other long work, off or spread over the event loop
single/                  one response alone: its score, its critique and revision
calibration.py           temperature and isotonic calibration, and their files
reader.py                a fitted reader of all reads of a pair, in place of a calibration's curve
calibration_metrics.py   accuracy, NLL, Brier score, calibration error
"""
