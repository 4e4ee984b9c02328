"""The parts of `archive --check`: an archive is loaded and asked in a process of its own.

Only check.py runs in the process of the command. All other files also run in the other process,
beside the archive's copy of this package, so they import nothing of the package but each other.
"""
