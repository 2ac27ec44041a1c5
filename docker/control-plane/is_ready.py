#!/usr/bin/env python3
"""Exit code 0 when the control plane on a port of this machine is ready: is_ready.py [port]

It is asked with HTTPS where it says that it speaks that, and its certificate is not checked.
"""

import ssl
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

_SPEAKS_HTTPS = 400


def ask(scheme: str, port: str) -> int:
    """Return the status of the answer. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        url = f"{scheme}://127.0.0.1:{port}/health/ready"
        with urlopen(url, timeout=4, context=context) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


if __name__ == "__main__":
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    status = ask("http", port)
    if status == _SPEAKS_HTTPS:
        status = ask("https", port)
    sys.exit(status != 200)
