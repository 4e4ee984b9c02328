"""The model host: one process with the model, asked by all workers."""
