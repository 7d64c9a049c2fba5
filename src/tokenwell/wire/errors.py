"""Errors that cross the engine socket or end a process: what was wrong, where, and what to do."""

from __future__ import annotations

import msgspec


class TokenwellError(Exception):
    """Base of every error that is told to a person. The message says what was wrong, where, and what to do."""


class CheckpointError(TokenwellError):
    """A checkpoint folder or file cannot be used: missing, truncated, unknown architecture, wrongly shaped tensor."""


class SettingsError(TokenwellError):
    """A setting has a bad value; the message names the setting and where it was set."""


class CapacityError(TokenwellError):
    """The model or the requested window does not fit into the memory that there is."""


class RequestError(msgspec.Struct, frozen=True, array_like=True):
    """Why one request failed, as data. `code` is a stable word that the API layer maps to a status."""

    code: str  # "context_length_exceeded" | "invalid_request" | "engine_failed" | "queue_full" | "cancelled"
    message: str
