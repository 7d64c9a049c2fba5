"""`tokenwell chat`: a conversation with a running service in the terminal, or one answer to what comes through a pipe."""

from __future__ import annotations

import json
import locale
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenwell.agent.endpoint import Call, Endpoint, EndpointError, Message, Reply
from tokenwell.cli.reach import endpoint_at
from tokenwell.cli.screen import Screen, harmless, pace
from tokenwell.cli.typed import typed_message
from tokenwell.config.settings import ServerSettings
from tokenwell.wire.errors import SettingsError

HELP = """\
/help            this list
/clear           begin a new conversation
/system TEXT     tell the model how to behave; without TEXT: nothing any more
/model NAME      talk to another model; without NAME: which there are
/quit            leave, as Ctrl-D does
A line that ends in \\ goes on in the next one; \"\"\" begins and ends a text of several lines. Ctrl-C stops an answer.
When the model calls a tool (--tools), you are asked for the result."""

_COMMAND = re.compile(r"/(\w+|\?)(?:\s+(.*))?", re.DOTALL)


def chat(
    server: ServerSettings,
    *,
    url: str | None,
    key: str | None,
    model: str | None,
    system: str | None,
    temperature: float | None,
    tools: Path | None,
) -> int:
    """Talk until the user leaves; returns the exit code. Raises SettingsError and EndpointError."""
    declared = declarations(tools) if tools else []
    endpoint = endpoint_at(server, url, key, model)
    piped = sys.stdin is None or not sys.stdin.isatty()
    screen = Screen(thinking=not piped or sys.stdout.isatty())  # a file gets the answer alone
    talk = Talk(endpoint, screen, system or "", temperature, declared)
    if piped:
        return _answer_pipe(talk)
    with suppress(ImportError):
        if locale.nl_langinfo(locale.CODESET) == "UTF-8":  # elsewhere it takes what is not English for commands
            import readline  # noqa: F401  gives input() a history and keys to edit with
    talk.screen.note(f"{endpoint.model} at {endpoint.base}. /help lists commands, Ctrl-D leaves.")
    while True:
        try:
            text = typed_message()
            if not talk.obey(text):
                return 0
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            talk.screen.note("\nCtrl-D leaves.")
        except EndpointError as error:
            talk.screen.line_start()
            print(f"tokenwell: {harmless(str(error))}", file=sys.stderr)


def declarations(file: Path) -> list[Message]:
    """The tools that a file declares: a JSON list in the form of the Chat API, or one with a key "tools"."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"--tools: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"--tools: {file} is not JSON: {error}") from error
    listed = content.get("tools") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise SettingsError(f"--tools: {file} is no list of tools")
    return listed


def _answer_pipe(talk: Talk) -> int:
    text = sys.stdin.read().strip() if sys.stdin else ""
    if not text:
        raise SettingsError("chat: nothing came through the pipe to answer")
    talk.messages.append({"role": "user", "content": text})
    try:
        reply = talk.answer()
    except KeyboardInterrupt:
        return 130
    print(f"[{pace(reply)}]", file=sys.stderr)
    return 0


class Talk:
    """One conversation and what it is had with."""

    def __init__(
        self, endpoint: Endpoint, screen: Screen, system: str, temperature: float | None, tools: list[dict[str, Any]]
    ) -> None:
        self.endpoint = endpoint
        self.screen = screen
        self.system = system
        self.messages: list[Message] = []
        self._temperature = temperature
        self._tools = tools

    def obey(self, text: str) -> bool:
        """Do a command, or have a message answered. False when the user wants to leave."""
        command = _COMMAND.fullmatch(text.strip())
        if command is None:
            if text.strip():
                self._say(text)
            return True
        name, rest = command[1], (command[2] or "").strip()
        if name in ("quit", "exit", "bye"):  # as other programs call it
            return False
        if name == "clear":
            self.messages.clear()
            self.screen.note("A new conversation.")
        elif name == "system":
            self.system = rest
            self.screen.note("The system prompt is set." if rest else "There is no system prompt now.")
        elif name == "model":
            self._model(rest)
        else:
            self.screen.note(HELP if name in ("help", "?") else f"There is no command /{name}; /help lists them.")
        return True

    def _model(self, name: str) -> None:
        names = self.endpoint.models()
        if name and name not in names:
            self.screen.note(f"There is no model {name}.")
        elif name:
            self.endpoint.choose(name)
        self.screen.note("\n".join(f"{'*' if each == self.endpoint.model else ' '} {each}" for each in names))

    def _say(self, text: str) -> None:
        """Have a message answered, and the calls in the answers too. What failed or gave nothing is taken back."""
        kept = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            while (reply := self.answer()).calls:
                self.screen.note(f"[{pace(reply)}]")
                self.messages += [self._result(call) for call in reply.calls]
            self.screen.note(f"[{pace(reply)}]")
        except (KeyboardInterrupt, EOFError):
            if self.messages[-1]["role"] != "assistant" or self.messages[-1].get("tool_calls"):
                del self.messages[kept:]
            self.screen.note("[stopped]")
        except EndpointError:
            del self.messages[kept:]
            raise

    def answer(self) -> Reply:
        """Show the model's next answer and add it to the conversation, at Ctrl-C what there is of its text.

        Raises EndpointError and KeyboardInterrupt.
        """
        begin = [{"role": "system", "content": self.system}] if self.system else []
        reply = self.endpoint.ask([*begin, *self.messages], self._tools, self._temperature)
        try:
            for kind, text in reply:
                self.screen.piece(kind, text)
        except KeyboardInterrupt:
            if reply.text:
                self.messages.append({"role": "assistant", "content": reply.text})
            raise
        finally:
            self.screen.turn(reply)
        self.messages.append(reply.message())
        return reply

    def _result(self, call: Call) -> Message:
        """The user plays the tool."""
        said = typed_message(f"result of {harmless(call.name)}: ")
        content = said or json.dumps({"error": "this tool cannot be used now"})
        return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content}
