"""What the quickstart asks of a running TorchServe, with the keys that TorchServe wrote."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from _ports import LOOPBACK, Ports

# Loopback is not for a proxy, whatever the environment says of proxies.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Client:
    """Asks with the key that fits each address."""

    ports: Ports
    key_file: Path

    def key(self, kind: str) -> str:
        """The key for `inference` or `management`; OSError or ValueError until it is written."""
        keys: dict[str, dict[str, str]] = json.loads(self.key_file.read_text(encoding="utf-8"))
        return keys[kind]["key"]

    def predict_url(self, model: str) -> str:
        """Where a model answers."""
        return f"http://{LOOPBACK}:{self.ports.inference}/predictions/{model}"

    def predict(self, model: str, body: bytes) -> tuple[int, Any]:
        """The status and the decoded answer."""
        return self._ask("inference", self.predict_url(model), body)

    def is_ready(self, model: str) -> bool:
        """All of the model's workers have loaded it."""
        url = f"http://{LOOPBACK}:{self.ports.management}/models/{model}"
        try:
            status, versions = self._ask("management", url)
        except (OSError, ValueError):  # no port open yet, or no key written
            return False
        workers = versions[0]["workers"] if status == HTTPStatus.OK else []
        return bool(workers) and all(worker["status"] == "READY" for worker in workers)

    def _ask(self, kind: str, url: str, body: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(url, data=body)  # noqa: S310 - always http to loopback
        request.add_header("Authorization", f"Bearer {self.key(kind)}")
        request.add_header("Content-Type", "application/octet-stream")
        try:
            with _opener.open(request, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)


class KeylessClient(Client):
    """Asks Ray Serve, which wants no keys and tells by KServe's path whether a model is ready."""

    def key(self, kind: str) -> str:  # noqa: ARG002 - none is needed
        """No key."""
        return ""

    def is_ready(self, model: str) -> bool:
        """A replica has loaded the model."""
        url = f"http://{LOOPBACK}:{self.ports.inference}/v2/models/{model}/ready"
        try:
            status, _ = self._ask("inference", url)
        except (OSError, ValueError):  # no port open yet, or Ray's own answer
            return False
        return bool(status == HTTPStatus.OK)
