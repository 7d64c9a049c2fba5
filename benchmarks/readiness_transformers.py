"""Does our engine change what the bundled model does? The readiness tasks through `tokenwell serve` and through transformers.

Both are greedy and on the same checkpoint; transformers computes in float32, because its sums in bfloat16 make another word the
likeliest now and then. It renders the checkpoint's chat template and generates by itself; only its text is read by our parser.
Prints both shares for every kind of task and language, and one JSON line.

    python -m benchmarks.readiness_transformers --tasks 150        all of them: transformers takes half an hour on two cores
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e import service as services  # noqa: E402

from tokenwell.agent.endpoint import Endpoint, base_of  # noqa: E402
from tokenwell.chat.conversation import Conversation, Message, ToolCall  # noqa: E402
from tokenwell.chat.events import Content, ToolArguments, ToolStart  # noqa: E402
from tokenwell.chat.model import ChatModel  # noqa: E402
from tokenwell.readiness.report import Report  # noqa: E402
from tokenwell.readiness.run import Outcome, Work, attempt, choose  # noqa: E402
from tokenwell.readiness.task import KINDS, LANGUAGES, Task, tasks  # noqa: E402

BUNDLED = ROOT / "src/tokenwell/bundled/mini"
NEW_TOKENS = 1024


class Transformers(Endpoint):
    """transformers in the place of an endpoint."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        super().__init__("transformers")
        self.chat = ChatModel.load(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.other_prompts = 0  # that our service would have rendered in another way

    def read(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The one object of an answer that is not streamed."""
        tools = request.get("tools", [])
        prompt = self.tokenizer.apply_chat_template(
            [_with_objects(message) for message in request["messages"]],
            tools=tools or None,
            add_generation_prompt=True,
            return_dict=False,
        )
        ours = self.chat.render(Conversation(tuple(map(_message, request["messages"])), tuple(tools)))
        self.other_prompts += list(prompt) != ours.tokens
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            made = self.network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
        written = made[0, len(prompt) :].tolist()
        if written and written[-1] in self.chat.defaults.stop_ids:
            written.pop()
        stream = self.chat.stream(ours, "call")
        message: dict[str, Any] = {"content": "", "tool_calls": []}
        for event in [*stream.feed(written), *stream.finish()]:
            match event:
                case Content(text=text):
                    message["content"] += text
                case ToolStart(id=id, name=name):
                    message["tool_calls"].append({"id": id, "function": {"name": name, "arguments": ""}})
                case ToolArguments(index=index, text=text):
                    message["tool_calls"][index]["function"]["arguments"] += text
        reason = "tool_calls" if message["tool_calls"] else "stop"
        yield {
            "choices": [{"message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(written)},
        }


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Templates take the arguments of past calls as objects."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _message(message: dict[str, Any]) -> Message:
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    )
    return Message(
        message["role"],
        message["content"],
        tool_calls=calls,
        tool_call_id=message.get("tool_call_id"),
        name=message.get("name"),
    )


def ours(folder: Path, chosen: list[Task]) -> list[Outcome]:
    """The tasks through the real service."""
    with services.serve(folder, Path(tempfile.mkdtemp()) / "service.log", "--device=cpu") as service:
        endpoint = Endpoint(base_of(service.url))
        endpoint.choose(None)
        return list(Work(endpoint, chosen))


def theirs(folder: Path, chosen: list[Task]) -> tuple[list[Outcome], int]:
    """The tasks through transformers, and how many prompts differ from ours."""
    endpoint = Transformers(folder)
    outcomes = []
    for number, task in enumerate(chosen, 1):
        outcomes.append(attempt(endpoint, task, streamed=False))
        print(f"\r{number}/{len(chosen)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return outcomes, endpoint.other_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--tasks", type=int, default=20, help="of each kind and language [20]")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    chosen = choose(tasks(), None, None, options.tasks)
    mine = ours(options.checkpoint, chosen)
    other, other_prompts = theirs(options.checkpoint, chosen)
    both = {"ours": Report(mine), "transformers": Report(other)}
    for kind, name in KINDS.items():
        for language, spoken in LANGUAGES.items():
            cells = "   ".join(f"{whose}: {report.share(kind, language)}" for whose, report in both.items())
            print(f"{name:18}{spoken:10}{cells}")
    percent = {
        whose: {kind: round(report.share(kind).percent, 1) for kind in KINDS} | {"malformed": report.malformed}
        for whose, report in both.items()
    }
    known = {outcome.task.id: outcome.verdict.passed for outcome in mine}
    differ = [outcome.task.id for outcome in other if known[outcome.task.id] != outcome.verdict.passed]
    print(
        json.dumps(
            {
                "benchmark": "readiness_transformers",
                "tasks": len(chosen),
                "percent": percent,
                "judged_differently": differ,
                "prompts_rendered_differently": other_prompts,
            }
        )
    )


if __name__ == "__main__":
    main()
