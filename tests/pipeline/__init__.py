"""The tests of micro_batch_handler/pipeline: gates, fake clocks and a fake device."""
