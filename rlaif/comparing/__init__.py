"""What is told of training methods that were compared over several seeds; no judge is asked here.

crossed.py        intervals of means over seeds and prompts, both of which are a sample
head_to_head.py   win rates over seeds; which methods are compared with each other
text_nll.py       how well a policy still predicts plain text
result.py         the results, as comparison.json has them
last_line.py      the last line, by rule
tables.py         tables and sentences
page.py           the HTML page, in the style of a run's report
"""
