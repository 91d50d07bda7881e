"""The gRPC client.

sync.py               JudgeClient, for ordinary code and notebooks
aio.py                AsyncJudgeClient, for asyncio
base.py               what both share: connection, credentials, retries
calls.py              each call: its request, and what its reply becomes
channel.py            gRPC channels: addresses, TLS, tokens, compression
stream_requests.py    the requests of a stream, from their source until they are answered
resumable_stream.py   a stream of judgments that survives a lost connection
balanced_stream.py    one over several servers, each of which takes what it has room for
balanced_sync.py      its calls in threads, for JudgeClient
balanced_aio.py       its calls in tasks, for AsyncJudgeClient
replicas.py           several servers as one judge: what must be the same
"""

from judge_service.client.aio import AsyncJudgeClient
from judge_service.client.sync import JudgeClient, JudgeRequestError, JudgeUnavailable

__all__ = ["AsyncJudgeClient", "JudgeClient", "JudgeRequestError", "JudgeUnavailable"]
