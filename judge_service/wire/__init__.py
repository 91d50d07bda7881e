"""Conversion between protobuf messages and domain types; nothing else knows both.

requests.py        requests: written by the client, validated by the server
judgments.py       judgments, rankings, provenance, server info
candidates.py      scores, critiques, revisions, prompt previews
constitutions.py   constitutions, conversations, diagnostics
enums.py           enumerations
sizes.py           how large an answer will be
"""
