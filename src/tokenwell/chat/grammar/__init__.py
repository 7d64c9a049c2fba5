"""Grammars of answers: what a request wants its answer held to, as one llguidance grammar made from the chat format's table."""
