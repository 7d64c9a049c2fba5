"""Kernels of our own, each behind a `reason_not` and with a plain torch equivalent that it is tested against."""
