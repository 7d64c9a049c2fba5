"""The words that both sides of the engine socket use. Knows no torch, no HTTP and no dialect."""
