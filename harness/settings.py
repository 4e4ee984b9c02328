"""The server's own files: config.properties and log4j2.xml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LOG4J2",
    "OVERRIDES",
    "ROOT",
    "Ports",
    "config_properties",
    "on_ports",
    "shipped_properties",
]

ROOT = Path(__file__).parents[1]
"""The repository; a server can be started with its config.properties and log4j2.xml."""

OVERRIDES = {
    "enable_model_api": "true",
    "disable_token_authorization": "true",
}
"""What tests and benchmarks change in config.properties, besides ports and folders."""


@dataclass(frozen=True)
class Ports:
    """The ports of one server."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


SHIPPED = Ports(8080, 8081, 8082, 7070, 7071)
"""Those of config.properties, which pages and manifests name."""


def on_ports(text: str, ports: Ports) -> str:
    """The text with these ports in place of those of config.properties."""
    for old, new in zip(vars(SHIPPED).values(), vars(ports).values(), strict=True):
        text = re.sub(rf"(?<=[:=]){old}\b", str(new), text)
    return text


def config_properties(ports: Ports, model_store: Path, extra: Mapping[str, str]) -> str:
    """The text of config.properties; `extra` overrides the settings here."""
    settings = {
        **_places(ports, model_store),
        "metrics_mode": "prometheus",
        "metrics_config": str(ROOT / "metrics.yaml"),
        # Without this a Python process measures the machine once a minute.
        "disable_system_metrics": "true",
        "job_queue_size": "1000",
        "number_of_gpu": "0",
        "vmargs": "-Xmx512m -XX:+UseSerialGC",
        **extra,
    }
    return _lines(settings)


def shipped_properties(ports: Ports, model_store: Path, extra: Mapping[str, str]) -> str:
    """The repository's config.properties on these ports; of two equal keys the last wins."""
    shipped = (ROOT / "config.properties").read_text(encoding="utf-8")
    # It names metrics.yaml as seen from the repository.
    places = {**_places(ports, model_store), "metrics_config": str(ROOT / "metrics.yaml")}
    return f"{shipped}\n{_lines({**places, **extra})}"


def _places(ports: Ports, model_store: Path) -> dict[str, str]:
    return {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": str(ports.grpc_inference),
        "grpc_management_port": str(ports.grpc_management),
        "model_store": str(model_store),
    }


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


LOG4J2 = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <File name="server" fileName="${env:LOG_LOCATION}/ts_log.log">
      <PatternLayout pattern="%d{ISO8601} [%-5p] %t %c - %m%n"/>
    </File>
    <File name="model" fileName="${env:LOG_LOCATION}/model_log.log">
      <PatternLayout pattern="%d{ISO8601} [%-5p] %t - %m%n"/>
    </File>
    <File name="access" fileName="${env:LOG_LOCATION}/access_log.log">
      <PatternLayout pattern="%d{ISO8601} - %m%n"/>
    </File>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="info" additivity="false"><AppenderRef ref="access"/></Logger>
    <Logger name="MODEL_LOG" level="info" additivity="false"><AppenderRef ref="model"/></Logger>
    <Logger name="MODEL_METRICS" level="off" additivity="false"/>
    <Logger name="TS_METRICS" level="off" additivity="false"/>
    <Root level="warn"><AppenderRef ref="server"/></Root>
  </Loggers>
</Configuration>
"""
"""Less than by default, which halves the throughput; what the workers print is kept for tests."""
