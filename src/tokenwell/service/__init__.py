"""Which engine answers a request, and whether: start, watch, restart, admit, replay. Knows no HTTP and no dialect."""
