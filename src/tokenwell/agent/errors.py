"""The one error of the agent's tools."""

from __future__ import annotations


class ToolError(Exception):
    """A tool could not do what a model asked for. The message is for the model, which sees it as the call's result."""
