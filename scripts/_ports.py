"""The five loopback ports of a TorchServe, as config.properties names them."""

from __future__ import annotations

import re
import socket
from dataclasses import astuple, dataclass, fields
from pathlib import Path

LOOPBACK = "127.0.0.1"

_KEYS = {
    "inference": r"^inference_address=http://[^:]+:(\d+)$",
    "management": r"^management_address=http://[^:]+:(\d+)$",
    "metrics": r"^metrics_address=http://[^:]+:(\d+)$",
    "grpc_inference": r"^grpc_inference_port=(\d+)$",
    "grpc_management": r"^grpc_management_port=(\d+)$",
}


@dataclass(frozen=True)
class Ports:
    """One port for each of TorchServe's addresses."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int

    @classmethod
    def read(cls, config: Path) -> Ports:
        """The ports that a config.properties names."""
        text = config.read_text(encoding="utf-8")
        found = {}
        for name, pattern in _KEYS.items():
            match = re.search(pattern, text, re.MULTILINE)
            if match is None:
                raise ValueError(f"{config} must have a line like {pattern}")
            found[name] = int(match[1])
        return cls(**found)

    @classmethod
    def starting_at(cls, first: int) -> Ports:
        """Five ports in a row."""
        return cls(*range(first, first + len(fields(cls))))

    def write(self, config: Path, target: Path) -> None:
        """Copy a config.properties with these ports instead of its own."""
        text = config.read_text(encoding="utf-8")
        for name, pattern in _KEYS.items():
            match = re.search(pattern, text, re.MULTILINE)
            if match:
                start, end = match.span(1)
                text = f"{text[:start]}{getattr(self, name)}{text[end:]}"
        target.write_text(text, encoding="utf-8")

    def taken(self) -> list[int]:
        """Those that another program listens on."""
        return [port for port in astuple(self) if _is_taken(port)]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still fading away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False
