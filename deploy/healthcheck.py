"""Says whether every model has a worker that is ready: exits with 0, or with 1 and the reason.

For a container's health check and for Kubernetes' probes. /ping tells less: it answers "Healthy"
while models are loaded, and asks for a key that clients may renew. This asks the management
address, which only this machine reaches, with the key from TorchServe's file. If that key has
ended, it has TorchServe make the next one; no client uses it.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any

TIMEOUT_S = 5
"""For each of a few requests to this machine."""

# This machine is not for a proxy, whatever the environment says of proxies.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Management:
    """The management API of a TorchServe on this machine, with keys or without.

    Args:
        address: such as http://127.0.0.1:8081.
        key_file: what TorchServe writes where it starts; there is none if it asks for no keys.
    """

    def __init__(self, address: str, key_file: Path) -> None:
        self._address = address
        self._key_file = key_file

    def get(self, path: str) -> Any:
        """The decoded answer.

        Raises:
            OSError: there is no answer, or it is an error.
            ValueError: the answer is no JSON.
        """
        try:
            return self._get(path, "management")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.BAD_REQUEST or not self._key_file.exists():
                raise
            error.close()
        self._get("/token?type=management", "API")  # that key never ends
        return self._get(path, "management")

    def _get(self, path: str, kind: str) -> Any:
        request = urllib.request.Request(self._address + path)  # noqa: S310  (http, to this machine)
        if self._key_file.exists():
            keys = json.loads(self._key_file.read_text(encoding="utf-8"))
            request.add_header("Authorization", f"Bearer {keys[kind]['key']}")
        with _opener.open(request, timeout=TIMEOUT_S) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None


def missing(management: Management) -> str | None:
    """What no request can be answered by; None if all is there.

    Raises:
        OSError, ValueError: TorchServe does not answer as it should.
    """
    models = management.get("/models?limit=1000")["models"]
    for model in models:
        for version in management.get(f"/models/{model['modelName']}/all"):
            ready = [each for each in version["workers"] if each["status"] == "READY"]
            if version["minWorkers"] and not ready:
                return f"{version['modelName']} {version['modelVersion']} has no ready worker"
    return None if models else "there are no models"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--management", default="http://127.0.0.1:8081", help="address (default: %(default)s)"
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        default=Path("key_file.json"),
        help="of TorchServe (default: %(default)s, where TorchServe starts)",
    )
    options = parser.parse_args()
    try:
        reason = missing(Management(options.management, options.key_file))
    except (OSError, ValueError, KeyError) as error:
        reason = f"{options.management}: {error}"
    if reason:
        sys.stderr.write(f"{reason}\n")
    return int(reason is not None)


if __name__ == "__main__":
    sys.exit(main())
