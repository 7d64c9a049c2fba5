"""Builds the checkpoint that is served when none was named: tiny, random, the same bytes everywhere. Its text means nothing."""
