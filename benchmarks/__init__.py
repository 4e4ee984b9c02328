"""What is measured, and by which command; README.md has the figures."""
