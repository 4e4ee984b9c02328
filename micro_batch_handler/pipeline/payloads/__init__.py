"""What stages return: counted, cut and joined by rows."""
