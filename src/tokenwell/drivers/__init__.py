"""How the gateway talks to one engine, a file for each kind of engine. Knows no HTTP and no dialect."""
