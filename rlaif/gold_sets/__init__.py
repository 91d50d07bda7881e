"""Gold sets: questions whose right answers are known, read from public benchmarks. No judge here.

questions.py    `read_gold` for any file of questions, and seeded draws of them
record.py       GoldQuestion: a prompt, its responses, and which of them are right
formats.py      schemas: RewardBench 1 and 2, RM-Bench, JudgeBench, HHH, LLMBar, PandaLM, XSTest
answers.py      answers as log-odds, and the credit that a leaderboard gives them
figures.py      the leaderboards' own figures, with intervals clustered by prompt
floors.py       what needs no judge: random, longer, surface features, a bag of words
length.py       how often the longer response is chosen, and the slope on the log length ratio
"""
