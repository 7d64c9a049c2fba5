"""The agent's loop: ask, do what is called for, give the results back, until the model only speaks. Hides nothing."""

from __future__ import annotations

from typing import Any, Protocol

from tokenwell.agent.endpoint import Endpoint, Message, Reply
from tokenwell.agent.toolbox import Toolbox
from tokenwell.agent.tools import SYSTEM, TOOLS
from tokenwell.wire.errors import TokenwellError


class UnfinishedError(TokenwellError):
    """The model did not come to an end; says why."""


class Audience(Protocol):
    """Who watches the agent work; told everything as it happens."""

    def piece(self, kind: str, text: str) -> None:
        """A piece of the model's answer, as `Reply` gives it."""

    def result(self, name: str, arguments: str, result: str) -> None:
        """A call was done; `arguments` as the model wrote them."""

    def turn(self, reply: Reply) -> None:
        """The model's turn is over; its calls are done next."""


def work(task: str, endpoint: Endpoint, toolbox: Toolbox, audience: Audience, *, max_turns: int) -> str:
    """Let the model work on `task` and return its last words.

    Raises UnfinishedError after `max_turns` answers that all had calls, or when one was cut off, empty or lacks its calls;
    EndpointError.
    """
    messages: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
    for _ in range(max_turns):
        reply = endpoint.ask(messages, TOOLS)
        for kind, text in reply:
            audience.piece(kind, text)
        audience.turn(reply)
        if reply.finish == "length":
            raise UnfinishedError("the answer was cut off: the model reached its limit of tokens")
        if not reply.calls:
            if reply.finish == "tool_calls":
                raise UnfinishedError("the endpoint says that the model called a tool, but not which")
            if not reply.text.strip():
                raise UnfinishedError("the model's answer is empty")
            return reply.text
        messages.append(reply.message())
        messages += [_done(call.id, call.name, call.arguments, toolbox, audience) for call in reply.calls]
    raise UnfinishedError(f"not finished after {max_turns} turns; --max-turns allows more")


def _done(id: str, name: str, arguments: str, toolbox: Toolbox, audience: Audience) -> dict[str, Any]:
    """Do one call; the message with its result."""
    result = toolbox.run(name, arguments)
    audience.result(name, arguments, result)
    return {"role": "tool", "tool_call_id": id, "name": name, "content": result}
