"""Serves the stages with BentoML: becomes `bentoml serve` with the service beside this file.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve until SIGTERM, which ends BentoML with its workers."""
    parser = argparse.ArgumentParser()
    for name in ("stages", "port", "config", "settings"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    environment = {
        **os.environ,
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(Path(options.stages, "bentoml")),
        # The service's processes find them here.
        "PEER_STAGES": options.stages,
        "PEER_CONFIG": options.config,
        "PEER_SETTINGS": options.settings,
    }
    command = [sys.executable, "-m", "bentoml", "serve", "service:Model", "--quiet"]
    command += ["--host", "127.0.0.1", "--port", options.port]
    command += ["--working-dir", str(Path(__file__).parent)]
    os.execve(sys.executable, command, environment)  # noqa: S606


if __name__ == "__main__":
    main()
