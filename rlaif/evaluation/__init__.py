"""How good a policy or a reward model is, with 95 % intervals. Nothing here queries a judge.

comparison.py       responses compared with the start's, and the win rates
policies.py         trained policies against their starting policy: win rate, scores, KL, lengths
reward_models.py    a reward model against held-out labels: accuracy, NLL, calibration error
gold.py             what is truly better, where a planted judge defines it: labels, policies
intervals.py        means and shares with their 95 % intervals: Wilson, Student's t (no bootstrap)
anytime.py          an interval that holds at every look, so that judging may stop early
human_verdicts.py   the win rate by people on some pairs and a judge on all: PPI++
clustered.py        weighted means, lines and folds where values of a prompt are alike
logistic.py         ridge logistic regression, with soft labels and weights
length_control.py   the win rate at equal length: logistic regression, with a bootstrap by prompt
diversity.py        distinct-n and self-BLEU
round_robin/        policies that were all compared with each other, and their strengths
rounds/             each round of labeling and training, and when rounds end
judges/             what each judge says, how far two agree, and what a judge is worth on gold
rules/              what texts show without a judge: refusals, lengths, concrete next steps
"""
