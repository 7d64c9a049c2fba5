"""From conversations to prompt tokens and from generated tokens back to events. Pure functions on text; no HTTP, no torch."""
