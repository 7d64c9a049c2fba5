"""Does the bundled model answer at once on this processor? The service as the README starts it, through HTTP, streaming.

Three starts, from the command to the ready message; then chats of about 300 prompt tokens at batch 1, each prompt new, without
tools and with three of them (`tool_choice: auto`, so that a grammar holds the answer). `limit_tok_s` is what the memory allows:
the speed at which one thread, which is what the engine takes, reads it, over the bytes that a token reads. Prints one JSON line
with medians; ratios are what was measured over what is asked for, or the other way round where less is better: all should be
above 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e import service as services  # noqa: E402
from tests.e2e.service import Service  # noqa: E402

from tokenwell.checkpoint.safetensors import read_header  # noqa: E402
from tokenwell.host.bandwidth import read_bytes_s  # noqa: E402

READY_S, TTFT_MS, TOK_S = 4.0, 150.0, 150.0  # asked for on two cores
PROMPT_TOKENS, NEW_TOKENS = 300, 128
STARTS = 3
THREADS = 1  # that the engine computes with, as small as the model is
LOOKED_UP = "embed_tokens_per_layer.weight"  # of which a token reads one row

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
NOTE = {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}, "required": ["path", "text"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}
    for name, what, parameters in (
        ("get_weather", "The weather in a city.", CITY), ("append_file", "Add text to the end of a file.", NOTE),
        ("write_file", "Put text into a file.", NOTE),
    )
]  # fmt: skip
WORDS = "the of and to in is that for it was on are as with they be at one have this from or had by hot word but what some we can"


class Asker:
    """Sends chats of a wanted length, no two of them alike."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._chance = random.Random(0)
        self._words = {False: PROMPT_TOKENS, True: PROMPT_TOKENS}  # of a prompt, without and with tools
        self._tokens_a_word = 1.0

    def ask(self, tools: bool) -> dict[str, float]:
        """One chat: seconds to the first token and from that to the last, and the tokens of both sides."""
        text = " ".join(self._chance.choices(WORDS.split(), k=self._words[tools]))
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": NEW_TOKENS, "temperature": 0}
        body |= {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        body |= {"return_token_ids": True}  # every token shows when it comes, also one without text
        if tools:
            body["tools"] = TOOLS
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=60)
        sent = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        times: list[float] = []
        prompt = 0
        for line in response:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                prompt = (chunk.get("usage") or {}).get("prompt_tokens", prompt)
                times += [time.perf_counter() for choice in chunk["choices"] for _ in choice.get("token_ids") or ()]
        connection.close()
        if not tools:
            self._tokens_a_word = prompt / self._words[tools]
        self._words[tools] = max(1, self._words[tools] + round((PROMPT_TOKENS - prompt) / self._tokens_a_word))
        return {"prompt": prompt, "ttft_ms": 1000 * (times[0] - sent), "tok_s": (len(times) - 1) / (times[-1] - times[0])}


def start(folder: Path | None, log: Path) -> tuple[Service, float]:
    """A started service, and the seconds from the command to its ready message."""
    started = time.perf_counter()
    service = services.start(folder, log)
    service.wait_until("a ready service", lambda: "Tokenwell is ready" in log.read_text())
    return service, time.perf_counter() - started


def read_a_token(folder: Path) -> int:
    """Bytes of weights that one token reads."""
    headers = [read_header(file) for file in folder.glob("*.safetensors")]
    return sum(info.nbytes for header in headers for name, info in header.items() if not name.endswith(LOOKED_UP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--checkpoint", type=Path, help="another folder than the bundled one")
    options = parser.parse_args()
    log = Path(tempfile.mkdtemp()) / "service.log"
    ready: list[float] = []
    asked: dict[str, list[dict[str, float]]] = {"plain": [], "tools": []}
    for number in range(1, STARTS + 1):
        service, seconds = start(options.checkpoint, log)
        ready.append(seconds)
        try:
            if number == STARTS:
                folder = Path(json.loads(service.get("/plan")[1])["plan"]["model"])
                asker = Asker(service)
                for kind, found in asked.items():
                    asker.ask(kind == "tools")  # shows how many words make the wanted prompt
                    found += [asker.ask(kind == "tools") for _ in range(options.rounds)]
        finally:
            services.stop(service)
    line: dict[str, Any] = {"benchmark": "bundled", "ready_s": round(statistics.median(ready), 2)}
    ratio = {"ready": READY_S / statistics.median(ready)}
    for kind, found in asked.items():
        middle = {name: statistics.median(one[name] for one in found) for name in ("prompt", "ttft_ms", "tok_s")}
        line[kind] = {name: round(value, 1) for name, value in middle.items()}
        ratio |= {f"{kind}_ttft": TTFT_MS / middle["ttft_ms"], f"{kind}_tok_s": middle["tok_s"] / TOK_S}
    line["limit_tok_s"] = round(read_bytes_s(THREADS) / read_a_token(folder))
    print(json.dumps(line | {"ratio": {name: round(value, 2) for name, value in ratio.items()}}))


if __name__ == "__main__":
    main()
