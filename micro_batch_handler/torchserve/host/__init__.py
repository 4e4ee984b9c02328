"""The process with the model (`share_model`): a handler that is loaded there, and called."""
