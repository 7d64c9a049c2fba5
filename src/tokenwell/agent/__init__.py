"""A small agent: asks a model, does the calls it makes inside one working folder, and gives it the results. Knows no engine."""
