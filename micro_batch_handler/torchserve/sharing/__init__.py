"""`share_model`: workers that prepare and finish requests around one process with the model."""
