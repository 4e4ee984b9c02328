"""Work on a device: its streams, copies, memory and errors."""
