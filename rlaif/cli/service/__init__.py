"""Commands that run and maintain a judge server.

serve.py   `rlaif serve`: run a judge server
top.py     `rlaif top`: live metrics of a server
store.py   `rlaif store …`: statistics, cleanup and export of the stored reads
token.py   `rlaif token new`: a token for a caller
"""
