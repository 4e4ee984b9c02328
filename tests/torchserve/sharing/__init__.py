"""The tests of micro_batch_handler/torchserve/sharing."""
