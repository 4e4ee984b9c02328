"""Runs TorchServe in the foreground, and stops it in order when the container is to stop.

`torchserve --foreground` does not pass signals on: it ends and leaves its frontend behind, which
the end of the container kills. Arguments go to `torchserve --start`: --disable-token-auth.
"""

from __future__ import annotations

import signal
import subprocess
import sys

SETTINGS = "/etc/torchserve"

TORCHSERVE = [sys.executable, "-m", "ts.model_server"]


def main() -> int:
    """Serve until a signal comes; 1 if TorchServe ends by itself."""
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        subprocess.run([*TORCHSERVE, "--stop"], check=False)

    start = [*TORCHSERVE, "--start", "--foreground", "--ncs"]
    start += ["--ts-config", f"{SETTINGS}/config.properties"]
    start += ["--log-config", f"{SETTINGS}/log4j2.xml"]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # In a session of its own, since Ctrl-C is for this process.
    subprocess.Popen([*start, *sys.argv[1:]], start_new_session=True).wait()
    return 0 if asked else 1


if __name__ == "__main__":
    sys.exit(main())
