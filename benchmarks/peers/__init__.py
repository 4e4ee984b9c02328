"""Other servers with the same model, the same pre- and postprocessing, the same load."""
