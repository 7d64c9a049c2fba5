"""What a model, an engine and a machine come to: bytes, speed and layout, counted before anything is loaded."""
