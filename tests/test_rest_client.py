"""The tests' REST client leaves nothing behind that a later test could take for TorchServe's."""

from __future__ import annotations

import contextlib
import gc
import http.server
import threading
from types import SimpleNamespace

import pytest
import requests

from harness.rest import RestClient
from harness.wait import until

PATIENCE_S = 0.2
"""How long the client waits for an answer that never comes."""


class Silent(http.server.BaseHTTPRequestHandler):
    """Answers /ping, and nothing else before its server ends."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.open += 1

    def finish(self):
        super().finish()
        self.server.open -= 1

    def do_GET(self):
        if self.path != "/ping":
            self.server.ended.wait()
        self.send_response(200)
        self.send_header("content-length", "21")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(b'{"status": "Healthy"}')

    def log_message(self, *_):
        pass


@pytest.fixture
def silent():
    """A running Silent."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.open, server.ended = 0, threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def test_a_client_that_gave_up_on_a_request_closes_its_connections(silent):
    """Once left, it holds none, without the help of the garbage collector."""
    port = silent.server_address[1]
    gc.collect()
    gc.disable()
    try:
        with RestClient(SimpleNamespace(inference=port, metrics=port), PATIENCE_S) as client:
            with pytest.raises(requests.Timeout):
                client.metrics()
            assert client.ping() == "Healthy"
        silent.ended.set()
        until(lambda: not silent.open, "the end of the client's connections", 5)
    finally:
        gc.enable()
