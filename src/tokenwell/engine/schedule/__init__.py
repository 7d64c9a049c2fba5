"""Who computes what next. Pure: no torch, no clock, no I/O."""
