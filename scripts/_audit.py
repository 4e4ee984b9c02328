"""Looks pins up in PyPI's advisories with pip-audit, whose status tells too little.

It ends with 0 if no pin could be looked up, and with 1 both for advisories and without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NOT_LOOKED_UP = 3


def main() -> int:
    """The command, with a file of requirements; its statuses are those of scripts/audit."""
    (requirements,) = sys.argv[1:]
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--no-deps"]
        command += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
        done = subprocess.run(
            [*command, "--output", str(report)], capture_output=True, text=True, check=False
        )
        text = report.read_text(encoding="utf-8") if report.exists() else ""
    if not text:
        why = "".join(done.stderr.splitlines()[-1:])
        sys.stderr.write(f"The advisories could not be asked: {why}\n")
        return NOT_LOOKED_UP
    return say(json.loads(text)["dependencies"])


def say(pins: list[dict[str, Any]]) -> int:
    """Print what is known, and give the status."""
    left_out = [pin["name"] for pin in pins if "skip_reason" in pin]
    bad = [pin for pin in pins if pin.get("vulns")]
    for pin in bad:
        for known in pin["vulns"]:
            mended = ", ".join(known["fix_versions"]) or "no version"
            print(f"{pin['name']} {pin['version']}: {known['id']}, mended in {mended}")
    if left_out:
        print(f"Not looked up, since PyPI did not know them: {', '.join(left_out)}")
    print(f"{len(pins) - len(left_out)} of {len(pins)} pins looked up, {len(bad)} with advisories")
    if bad:
        return 1
    return NOT_LOOKED_UP if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
