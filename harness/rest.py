"""A client of the REST interface, for one thread."""

from __future__ import annotations

from typing import Any

import requests

from harness.settings import Ports

__all__ = ["TIMEOUT_S", "RestClient"]

TIMEOUT_S = 60.0
"""The longest that a call waits; none needs nearly as long."""


class RestClient:
    """One connection to each port; use it in a `with` statement and in one thread."""

    def __init__(self, ports: Ports, timeout: float = TIMEOUT_S) -> None:
        self._ports = ports
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between here and loopback

    def __enter__(self) -> RestClient:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        # Closing the session isn't enough: urllib3 2 closes a pool when nothing refers to it any
        # more, and the error of a request that timed out does refer to it, in a circle.
        for adapter in self._session.adapters.values():
            pools = adapter.poolmanager.pools
            for key in pools.keys():  # noqa: SIM118  (it can't be iterated itself)
                pools[key].close()
        self._session.close()

    def ping(self) -> str:
        """The status that the server gives of itself, such as "Healthy"."""
        return str(self._call("GET", self._ports.inference, "/ping").json()["status"])

    def predict(self, model: str, **kwargs: Any) -> requests.Response:
        """Ask for a prediction; `kwargs` as for `requests.post`: json, data, headers, files."""
        return self._call("POST", self._ports.inference, f"/predictions/{model}", **kwargs)

    def explain(self, model: str, **kwargs: Any) -> requests.Response:
        """Ask for an explanation."""
        return self._call("POST", self._ports.inference, f"/explanations/{model}", **kwargs)

    def register(self, **parameters: Any) -> requests.Response:
        """Register a model and wait for its workers; parameters as of the management API."""
        parameters = {"initial_workers": 1, "synchronous": "true", **parameters}
        return self._call("POST", self._ports.management, "/models", params=parameters)

    def unregister(self, model: str) -> requests.Response:
        """Unregister a model."""
        return self._call("DELETE", self._ports.management, f"/models/{model}")

    def scale(self, model: str, workers: int) -> requests.Response:
        """Set the number of workers, and wait for them."""
        parameters = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        return self._call("PUT", self._ports.management, f"/models/{model}", params=parameters)

    def describe(self, model: str, *, customized: bool = False) -> requests.Response:
        """What the frontend knows of a model and, if `customized`, what its handler tells."""
        parameters = {"customized": str(customized).lower()}
        return self._call("GET", self._ports.management, f"/models/{model}", params=parameters)

    def metrics(self) -> str:
        """The metrics as Prometheus reads them."""
        return self._call("GET", self._ports.metrics, "/metrics").text

    def _call(self, method: str, port: int, path: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", self._timeout)
        return self._session.request(method, f"http://127.0.0.1:{port}{path}", **kwargs)
