"""Real speech to send, from the file that a package carries (nothing is downloaded)."""

from __future__ import annotations

import io
import wave
from importlib.util import find_spec
from pathlib import Path


def speech(start_s: float = 0.0, seconds: float = 10.0) -> bytes:
    """A piece of a reading of Beckett's "Worstward Ho", as a WAV file."""
    spec = find_spec("moonshine_onnx")
    if spec is None or spec.origin is None:
        raise SystemExit("useful-moonshine-onnx is not installed: the README says how")
    piece = io.BytesIO()
    with (
        wave.open(str(Path(spec.origin).parent / "assets" / "beckett.wav")) as whole,
        wave.open(piece, "wb") as part,
    ):
        part.setparams(whole.getparams())
        whole.setpos(round(start_s * whole.getframerate()))
        part.writeframes(whole.readframes(round(seconds * whole.getframerate())))
    return piece.getvalue()


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(speech())
