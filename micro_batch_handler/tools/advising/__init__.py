"""Whether this package helps an archive: measured briefly, forecast, and one advice."""
