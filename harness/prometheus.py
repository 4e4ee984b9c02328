"""One real Prometheus, in a folder and on a port of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml

from harness.settings import ROOT
from harness.wait import until

__all__ = ["Prometheus", "program"]

START_S = 60
STOP_S = 30
SCRAPE_INTERVAL = "250ms"


def program(name: str) -> str | None:
    """Where `prometheus` or `promtool` is; None if the machine has none."""
    return shutil.which(name)


class Prometheus:
    """Prometheus with the repository's dashboards/prometheus.yml, but for target and interval.

    Starts when entered, and is ended when left.

    Args:
        folder: an empty folder for its configuration and its data.
        target: host and port of what it scrapes.
    """

    def __init__(self, folder: Path, target: str) -> None:
        config = yaml.safe_load((ROOT / "dashboards" / "prometheus.yml").read_text("utf-8"))
        config["global"] = dict.fromkeys(config["global"], SCRAPE_INTERVAL)
        config["rule_files"] = [str(ROOT / "dashboards" / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        (targets,) = job["static_configs"]
        targets["targets"] = [target]
        self._config = folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = folder / "prometheus.log"
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between here and loopback

    def __enter__(self) -> Prometheus:  # noqa: PYI034  (typing.Self needs Python 3.11)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(program("prometheus")),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._data}",
                    f"--web.listen-address={self._address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self._is_ready, "a ready Prometheus", START_S, self._has_ended)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: one entry for each series.

        Raises:
            AssertionError: the expression is not valid.
        """
        answer = self._get("query", query=expression)
        assert answer["status"] == "success", f"{expression}: {answer['error']}"
        return list(answer["data"]["result"])

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label, as Grafana's `label_values` asks for them."""
        return list(self._get(f"label/{label}/values", **{"match[]": selector})["data"])

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules, with their health and state."""
        return [rule for group in self._get("rules")["data"]["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"http://{self._address}/api/v1/{path}"
        return dict(self._session.get(url, params=parameters, timeout=60).json())

    def _is_ready(self) -> bool:
        try:
            return self._session.get(f"http://{self._address}/-/ready", timeout=60).ok
        except requests.ConnectionError:
            return False

    def _has_ended(self) -> str | None:
        if self._process is not None and self._process.poll() is not None:
            return self._log.read_text("utf-8", "replace")
        return None

    def _stop(self) -> None:
        self._session.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_S)
