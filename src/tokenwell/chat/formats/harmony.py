"""harmony (gpt-oss): every message has a header that names its channel and, for a call, its recipient.

Syntax as described in OpenAI's public harmony guide.
"""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Channels, Format

HARMONY = Format(
    name="harmony",
    marks=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"),
    calls=(
        Call(
            before="<|channel|>commentary to=functions.",
            between=" <|constrain|>json<|message|>",
            arguments="json",
            after="<|call|>",
            single=True,
        ),
    ),
    channels=Channels(
        start="<|start|>",
        message="<|message|>",
        channel="<|channel|>",
        constrain="<|constrain|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        kinds=(("analysis", "reasoning"), ("commentary", "content"), ("final", "content")),
        recipient="functions.",
    ),
    signs=("<|channel|>", "<|message|>", "<|start|>"),
)
