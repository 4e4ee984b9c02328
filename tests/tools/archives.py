"""What tests of archives share: their entries, their handler, and a disk with too little room."""

from __future__ import annotations

import json
import resource
import zipfile
from contextlib import contextmanager


def entries(path):
    """The name, date, compression and bytes of each entry."""
    with zipfile.ZipFile(path) as archive:
        return [
            (info.filename, info.date_time, info.compress_type, archive.read(info))
            for info in archive.infolist()
        ]


def handler_of(path):
    """The handler that the manifest names."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["handler"]


@contextmanager
def too_little_room(most_bytes=50_000):
    """Let the process write no larger files: no archive with the package fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
