#!/usr/bin/env python3
"""Starts the container's tritonserver, closed to all but inference over gRPC:: serve-triton [...]

Further arguments are tritonserver's own, and win over those that are given here: say
``--load-model=demo``, or ``--allow-http=true --http-port=8000``.

Models are loaded, and shared memory, trace and log settings used, by whoever sends a secret in the
header ``triton-grpc-protocol-triton-model-control`` (HTTP: ``triton-model-control``). It is taken
from variables that are settings of the control plane as well:

- ``TRIAD_SERVING__TRITON__MODEL_CONTROL_VALUE``, or
- ``TRIAD_SERVING__TRITON__MODEL_CONTROL_FILE``, a file with it, such as a secret of Docker's;
- without them, nobody knows it.

It needs `private_process` and `become` of the control plane beside it, and Python alone.
"""

import os
import secrets
import signal
import sys
from pathlib import Path

from private_process import CannotHide, start

SERVER = "/opt/tritonserver/bin/tritonserver"
RESTRICTED = "model-repository,shared-memory,trace,logging"
VALUE = "TRIAD_SERVING__TRITON__MODEL_CONTROL_VALUE"
FILE = "TRIAD_SERVING__TRITON__MODEL_CONTROL_FILE"
HEADER = "TRIAD_SERVING__TRITON__MODEL_CONTROL_HEADER"


def main() -> int:
    given = sys.argv[1:]
    control = f"{RESTRICTED}:{os.environ.get(HEADER, 'triton-model-control')}={secret()}"
    arguments = [
        *(() if any("--model-repository" in a for a in given) else ("--model-repository=/models",)),
        *("--model-control-mode=explicit", "--grpc-port=8001"),
        *("--allow-http=false", "--allow-metrics=false"),
        *given,
    ]
    hidden = [f"--grpc-restricted-protocol={control}", f"--http-restricted-api={control}"]
    environment = {k: v for k, v in os.environ.items() if k not in (VALUE, FILE)}
    binary = os.environ.get("TRITON_SERVER", SERVER)
    try:
        server = start(binary, arguments, hidden, environment)
    except CannotHide as error:
        sys.stderr.write(f"warning: users of this host can see the secret: {error}\n")
        server = start(binary, [*arguments, *hidden], (), environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: server.send_signal(number))
    while True:  # the first process of a container inherits the others' children
        pid, status = os.wait()
        if pid == server.pid:
            return os.waitstatus_to_exitcode(status)


def secret() -> str:
    """Ends the program where a file is named that has none."""
    if value := os.environ.get(VALUE):
        return value
    if file := os.environ.get(FILE):
        if value := Path(file).read_text().strip():
            return value
        sys.exit(f"error: {FILE}: {file} is empty")
    return secrets.token_urlsafe(24)


if __name__ == "__main__":
    code = main()
    sys.exit(code if code >= 0 else 128 - code)
