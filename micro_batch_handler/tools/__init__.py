"""What people run from a shell."""
