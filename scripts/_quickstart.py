"""Serve the example with TorchServe or Ray on this machine and send it real photos.

What happens: .venv gets what is needed, Java too where the machine has none;
model_store/image_classifier.mar is packed; TorchServe starts on loopback with
config.properties; photos go in, labels come out; the server stops. The first
time takes minutes, since torch is large; the second ten seconds.
"""

from __future__ import annotations

import argparse
import signal
import sys


def main() -> int:
    """Do what the command line says; a failure is one line and a status."""
    options = parse()
    import _steps  # what it imports is in .venv, which --help must not need

    signal.signal(signal.SIGTERM, interrupt)
    try:
        if options.stop:
            _steps.stop()
        else:
            _steps.run(options.on, keep=options.keep, first_port=options.port)
    except _steps.FAILURES as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nquickstart: interrupted; the server it started is stopped", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="PYTHON=/path/to/python names the Python that makes .venv.\n\n"
        "example: scripts/quickstart --keep --port 9000",
    )
    parser.add_argument(
        "--on",
        choices=("torchserve", "ray"),
        default="torchserve",
        help="what serves the archive (default: torchserve)",
    )
    parser.add_argument("--keep", action="store_true", help="leave the server running at the end")
    parser.add_argument("--stop", action="store_true", help="stop the server that --keep left")
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="serve on the ports N to N+4 instead of those in config.properties",
    )
    return parser.parse_args()


def interrupt(*_: object) -> None:
    """A SIGTERM ends this program as Ctrl-C does: by way of every `finally`."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
