"""Real photos to send, from the files that scikit-image's wheel carries (nothing is downloaded)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class Photo:
    """A photo on disk, and what is known about it."""

    path: Path
    label: str | None = None
    """The class that EfficientNet-Lite0 finds most likely, where that is known."""
    probability: float | None = None
    """Its probability, to two digits."""

    @property
    def name(self) -> str:
        """The photo's name in scikit-image's gallery."""
        return self.path.stem

    def read(self) -> bytes:
        """The file's bytes, as a client would send them."""
        return self.path.read_bytes()


def photos() -> list[Photo]:
    """The photos of the quickstart; the first two have a known answer."""
    # The folder is asked for its files, not `skimage.data` for its functions: those decode to
    # arrays, and go to the network for what the wheel lacks.
    folder = Path(str(resources.files("skimage").joinpath("data")))
    return [
        Photo(folder / "chelsea.png", "Egyptian cat", 0.75),
        Photo(folder / "coffee.png", "espresso", 0.87),
        Photo(folder / "rocket.jpg"),
        Photo(folder / "motorcycle_left.png"),
        Photo(folder / "camera.png"),
    ]
