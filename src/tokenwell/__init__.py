"""Tokenwell: a private, fast token service for agents on the cards you own."""

__version__ = "0.1.0"
