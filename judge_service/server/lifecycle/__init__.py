"""The server and its supervisors.

health.py           the grpc.health.v1 service
open_requests.py    requests of calls that need no token, unfinished ones included
probe.py            a health check as a command
reload.py           constitutions, tokens and certificates, read again while the server runs
systemd.py          readiness notification
"""
