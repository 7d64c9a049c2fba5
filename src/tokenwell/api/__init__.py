"""HTTP: dialects in front of the service. Knows no engine, no tokens' meaning and no torch."""
