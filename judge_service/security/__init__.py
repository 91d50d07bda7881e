"""Who may call a server, and how much.

interceptor.py   checks each call's token, scope and quota
caller.py        authentication and authorization of a call
tokens.py        the YAML file of bearer tokens
quotas.py        limits per token
peers.py         limits per certificate or address, where there are no tokens
tls.py           the server's TLS, reloadable
file_watch.py    detects changed files
pem.py           validation of certificates and keys
"""
