"""Work of requests that would otherwise keep the event loop from everybody else.

tokens.py      texts from outside, tokenized once, in threads
turnstile.py   at most so many steps per turn of the event loop
"""
