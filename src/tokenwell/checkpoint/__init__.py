"""A checkpoint's files: which tensors lie where, how they are stored and cut. Reads headers, never weights; knows no torch."""
