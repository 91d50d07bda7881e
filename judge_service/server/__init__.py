"""The gRPC server.

run.py                     a server in this process, from its settings until it is stopped
app.py                     the server and its life cycle: start, load, stop
servicers.py               the methods of the two services
handlers.py                each request: validated, judged, answered
stream.py                  the server's side of StreamJudgments
registry.py                the server's constitutions, by name and digest
inline_constitutions.py    constitutions that are sent with a request
interceptors.py            admission, errors, metrics and a log line around every call
deadlines.py               which calls cannot be finished in time
incoming.py                requests, read once their call is admitted
malformed.py               malformed request bytes as INVALID_ARGUMENT
lifecycle/                 health, probe, reload and systemd
"""

import os

# gRPC's own lines go straight to standard error, past the queue of our log: any client can cause
# them, and where nobody reads them its threads would wait forever. It looks once, when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
