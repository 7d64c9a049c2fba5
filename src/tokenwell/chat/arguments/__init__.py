"""The notations that models write the arguments of calls in: read piece by piece into JSON text, and written."""
