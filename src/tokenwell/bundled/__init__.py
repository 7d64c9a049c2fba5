"""What the service brings along: the small model that is served when none was named, and the scripted engine's folder."""
