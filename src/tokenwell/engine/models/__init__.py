"""The architectures: one file each, listed in registry.py. A file says how a config.json is read and how tokens flow."""
