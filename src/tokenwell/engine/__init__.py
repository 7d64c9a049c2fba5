"""The inference engine. torch lives here and only here; other processes start this package, they never import it."""
