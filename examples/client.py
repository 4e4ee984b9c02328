"""One prediction over REST or gRPC, with key, deadline and retries.

    python examples/client.py cat photo.jpg --key-file key_file.json
    python examples/client.py cat photo.jpg --grpc 127.0.0.1:7070 --key-file key_file.json

A prediction that is made twice does no harm, so what TorchServe had no room for (503), or a proxy
no server for (502), is asked again. gRPC needs the stubs that docs/deploy.md makes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests

DEADLINE_HEADER = "x-envoy-expected-rq-timeout-ms"
"""`deadline_header` in model-config.yaml; what it says is how long the answer is still wanted."""

RETRIED = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}

FIRST_WAIT_S = 0.1
"""The longest wait before the second attempt; it doubles with each."""


@dataclass(frozen=True)
class Client:
    """Asks one server.

    Args:
        key: for inference, or None if the server asks for none.
        deadline_s: seconds within which all attempts must end.
        attempts: at most, the first one included.
        ca_file: certificates by which the server's is checked; None for those of the system.
    """

    key: str | None = None
    deadline_s: float = 10.0
    attempts: int = 4
    ca_file: Path | None = None

    def rest(self, url: str, model: str, body: bytes, content_type: str | None = None) -> bytes:
        """The answer over REST.

        Raises:
            requests.RequestException: there is none in time, or it is an error.
        """
        headers = {"Content-Type": content_type} if content_type else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        ends_s = time.monotonic() + self.deadline_s
        # Given with each call, since REQUESTS_CA_BUNDLE outdoes what a session has.
        verify = str(self.ca_file) if self.ca_file else None
        with requests.Session() as session:
            for attempt in itertools.count(1):
                left_s = max(ends_s - time.monotonic(), 0.001)
                headers[DEADLINE_HEADER] = f"{left_s * 1000:.0f}"
                try:
                    answer = session.post(
                        f"{url}/predictions/{model}",
                        body,
                        headers=headers,
                        timeout=left_s,
                        verify=verify,
                    )
                except requests.ConnectionError as error:
                    failure, is_answer = error, False
                else:
                    if answer.ok:
                        return answer.content
                    said = f"{answer.status_code}: {answer.text}"
                    failure = requests.HTTPError(said, response=answer)
                    is_answer = answer.status_code not in RETRIED
                wait_s = random.uniform(0, FIRST_WAIT_S * 2 ** (attempt - 1))  # noqa: S311  (no secret)
                is_late = time.monotonic() + wait_s >= ends_s
                if is_answer or is_late or attempt == self.attempts:
                    raise failure
                time.sleep(wait_s)
        raise AssertionError  # the loop has no other end

    def grpc(self, address: str, model: str, body: bytes) -> bytes:
        """The answer over gRPC, whose library retries by itself.

        TorchServe drops the status that a handler gives a request: the answer is then
        {"code": …, "type": …, "message": …}. It drops metadata, too, so the deadline is only that
        of the call.

        Raises:
            grpc.RpcError: there is no answer in time, or TorchServe gave it a status.
        """
        import grpc

        try:
            import inference_pb2
            import inference_pb2_grpc
        except ModuleNotFoundError as error:
            raise SystemExit(f"{error}: docs/deploy.md tells how to make the stubs") from error

        retries = {
            "name": [{"service": "org.pytorch.serve.grpc.inference.InferenceAPIsService"}],
            "retryPolicy": {
                "maxAttempts": self.attempts,  # gRPC makes five at most
                "initialBackoff": f"{FIRST_WAIT_S}s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
        # Calls are spread over all addresses of the name, such as those of a headless service.
        balancing = [{"round_robin": {}}]
        config = {
            "loadBalancingConfig": balancing,
            "methodConfig": [retries] if self.attempts > 1 else [],
        }
        options = [("grpc.service_config", json.dumps(config))]
        if self.ca_file:
            certificates = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
            channel = grpc.secure_channel(address, certificates, options)
        else:
            channel = grpc.insecure_channel(address, options)
        metadata = [("authorization", f"Bearer {self.key}")] if self.key else []
        name, _, version = model.partition("/")
        with channel:
            request = inference_pb2.PredictionsRequest(
                model_name=name, model_version=version, input={"body": body}
            )
            stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
            answer = stub.Predictions(request, timeout=self.deadline_s, metadata=metadata)
        return bytes(answer.prediction)


def main() -> int:
    """The command: prints the answer; 1 and the reason if there is none."""
    options = _parser().parse_args()
    key = None
    if options.key_file:
        key = json.loads(options.key_file.read_text(encoding="utf-8"))["inference"]["key"]
    client = Client(key, options.deadline_ms / 1000, options.attempts, options.ca_file)
    body = options.body.read_bytes()
    try:
        if options.grpc:
            answer = client.grpc(options.grpc, options.model, body)
        else:
            answer = client.rest(options.url, options.model, body, options.content_type)
    except Exception as error:
        # What gRPC raises is known only where it is installed.
        details = getattr(error, "details", None)
        said = f"{error.code().name}: {details()}" if details else str(error)
        sys.stderr.write(f"{options.model}: {said}\n")
        return 1
    sys.stdout.buffer.write(answer)
    return 0


def _parser() -> argparse.ArgumentParser:
    title, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="NAME, or NAME/VERSION")
    add("body", type=Path, help="a file with the body of the request")
    add("--url", default="http://127.0.0.1:8080", help="of REST (default: %(default)s)")
    add("--grpc", metavar="HOST:PORT", help="ask over gRPC, at this address")
    add("--content-type", help="of the body, such as application/json; REST only")
    add("--key-file", type=Path, help="key_file.json of TorchServe, if it asks for keys")
    add("--ca-file", type=Path, help="certificates that sign the server's; gRPC then uses TLS")
    add("--deadline-ms", type=float, default=10_000, help="for all attempts (default: %(default)s)")
    add("--attempts", type=int, default=4, help="at most (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
