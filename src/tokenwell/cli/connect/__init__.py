"""`tokenwell connect`: the real configuration of an agent for the running service, one file a client."""
