"""What batches did: recorded, written and read, and what held them up."""
