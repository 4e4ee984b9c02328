"""Work on a device: streams, copies, memory that must not be freed yet."""
