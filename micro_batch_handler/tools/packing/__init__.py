"""The parts of the archive and wrap commands."""
