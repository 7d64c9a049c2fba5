"""An engine without weights that does what the user messages of a request say: for people who test agents."""
