"""What a run of many pairs will take, from costs measured at two small sizes.

arithmetic.py   hours, hosts and disk from costs and assumed rates
commands.py     one `rlaif` command in a process of its own: CPU, peak memory
costs.py        the file of measured costs
measuring.py    every command of the chain at a number of pairs
relay.py        a TCP relay that counts bytes
server.py       the judge server of the measurement, with a fake engine
"""
