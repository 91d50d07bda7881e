"""The gRPC client.

sync.py               JudgeClient, for ordinary code and notebooks
aio.py                AsyncJudgeClient, for asyncio
base.py               what both share: connection, credentials, retries
calls.py              each call: its request, and what its reply becomes
channel.py            gRPC channels: addresses, TLS, tokens, compression
stream_requests.py    the requests of a stream, from their source until they are answered
resumable_stream.py   a stream of judgments that survives a lost connection
"""

from judge_service.client.aio import AsyncJudgeClient
from judge_service.client.sync import JudgeClient, JudgeRequestError, JudgeUnavailable

__all__ = ["AsyncJudgeClient", "JudgeClient", "JudgeRequestError", "JudgeUnavailable"]
