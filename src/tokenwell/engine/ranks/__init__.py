"""The processes that share one model: how rank 0 starts, tests and watches the others, and what these do."""
