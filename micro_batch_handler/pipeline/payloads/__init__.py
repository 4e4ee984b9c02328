"""What stages take and return: counted, cut and joined by rows."""
