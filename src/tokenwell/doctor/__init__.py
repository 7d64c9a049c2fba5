"""Finds what is wrong with a machine and prints what mends it: pure functions on facts. Changes nothing."""
