"""The reader: what a handler's source shows, without running it; imports neither torch nor ts."""
