"""Self-contained HTML pages and pictures."""
