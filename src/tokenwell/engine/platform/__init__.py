"""What differs between kinds of devices. Everything outside this folder is written against `Platform`."""
