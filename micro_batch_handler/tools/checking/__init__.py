"""The parts of `archive --check`: an archive, loaded and asked in a process of its own."""
