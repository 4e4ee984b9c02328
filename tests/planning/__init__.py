"""The tests of micro_batch_handler/planning, in simulated time."""
