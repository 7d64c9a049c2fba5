"""How many SSE chunks a second does the gateway alone carry? The real gateway, a fake engine, raw sockets.

Prints one JSON line. `chunks_per_s` is wall clock with everything on this machine's cores; `chunks_per_cpu_s` counts the
gateway process's own processor time, which is what one core of its own would carry. Two loads: "flood" pushes as fast as the
fake engine can, so that chunks queue up and share socket writes; "paced" leaves time between steps, so that every chunk wakes
its stream and is written alone, the gateway's worst case. "tools" is the paced load with answers that think, speak and then
call a tool with a long argument, so that every token goes through the parser. `ratio` is the paced chunks_per_cpu_s over the
target of 20,000, `tools_ratio` that of tools over 15,000.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.fakes.checkpoint import write_checkpoint  # noqa: E402
from tests.fakes.running import Running  # noqa: E402

TARGET_CHUNKS_PER_S = 20_000
TARGET_EVENTS_PER_S = 15_000
TOOL = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}},
    },
}


def script(tokens: int) -> str:
    """An answer of about `tokens` tokens of the fake checkpoint: a third each of thinking, text and a call's argument."""
    words = "the quick brown fox jumps over the lazy dog and hello there again " * (tokens // 60)
    call = json.dumps({"name": "write", "arguments": {"path": "a.txt", "text": words + '"quoted"\n' + words}})
    return f"<think>\n{words}\n</think>\n\n{words}\n<tool_call>\n{call}\n</tool_call>"


def read_all(port: int, streams: int, tokens: int, path: str, tools: bool) -> None:
    """The client process: open every stream, read to the end, print chunks, first and last time."""
    body: dict[str, object] = {"max_tokens": tokens, "ignore_eos": True, "stream": True}
    body |= {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"prompt": "hello"}
    if tools:
        body |= {"tools": [TOOL], "ignore_eos": False}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(head.encode() + data)
        selector.register(connection, selectors.EVENT_READ)
    chunks, generated, unfinished, started = 0, 0, streams, time.monotonic()
    ends: dict[int, bytes] = {}
    while unfinished:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            received = key.fileobj.recv(1 << 18)
            chunks += received.count(b"data: {")
            ends[key.fd] = (ends.get(key.fd, b"") + received)[-2000:]
            if not received:
                generated += int(re.findall(rb'"completion_tokens":(\d+)', ends[key.fd])[-1])
                selector.unregister(key.fileobj)
                key.fileobj.close()
                unfinished -= 1
    print(json.dumps({"chunks": chunks, "tokens": generated, "seconds": time.monotonic() - started}))


def read_all_in_a_process(port: int, streams: int, tokens: int, path: str, tools: bool) -> dict[str, float]:
    """`read_all` in a process of its own: chunks and seconds."""
    client = [sys.executable, __file__, "--client", str(port), "--streams", str(streams), "--tokens", str(tokens), "--path", path]
    client += ["--tools"] * tools
    counted: dict[str, float] = json.loads(subprocess.run(client, check=True, capture_output=True, text=True).stdout)
    return counted


def measure(streams: int, tokens: int, path: str, steps_per_s: float, tools: bool = False) -> dict[str, float]:
    """One run against a fresh gateway."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "checkpoint")
        engine = ["--max-model-len", str(2 * tokens + 2000), "--max-num-seqs", str(streams), "--rate", str(steps_per_s)]
        engine += ["--script", script(tokens)] if tools else []
        with Running(checkpoint, folder, *engine) as running:
            running.ready()
            gateway = psutil.Process(running.process.pid)
            before = gateway.cpu_times()
            result = read_all_in_a_process(running.port, streams, 2 * tokens if tools else tokens, path, tools)
            after = gateway.cpu_times()
            memory = gateway.memory_info().rss
    cpu_s = after.user + after.system - before.user - before.system
    assert tools or result["tokens"] == streams * tokens, "tokens were lost"
    return {
        "chunks": result["chunks"],
        "chunks_per_s": round(result["chunks"] / result["seconds"]),
        "chunks_per_cpu_s": round(result["chunks"] / cpu_s),
        "gateway_rss_mb": round(memory / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--steps-per-s", type=float, default=400, help="of the paced load; each step is one token a stream")
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--client", type=int, help="internal: read from the gateway on this port")
    parser.add_argument("--tools", action="store_true", help="internal: send a tool")
    wanted = parser.parse_args()
    if wanted.client is not None:
        read_all(wanted.client, wanted.streams, wanted.tokens, wanted.path, wanted.tools)
        return
    flood = measure(wanted.streams, wanted.tokens, wanted.path, 0)
    paced = measure(wanted.streams, wanted.tokens // 4, wanted.path, wanted.steps_per_s)
    tools = measure(wanted.streams, wanted.tokens // 4, "/v1/chat/completions", wanted.steps_per_s, tools=True)
    ratio = round(paced["chunks_per_cpu_s"] / TARGET_CHUNKS_PER_S, 2)
    question = {"question": "gateway SSE chunks a second", "streams": wanted.streams, "tokens": wanted.tokens}
    tools_ratio = round(tools["chunks_per_cpu_s"] / TARGET_EVENTS_PER_S, 2)
    print(json.dumps({**question, "flood": flood, "paced": paced, "tools": tools, "ratio": ratio, "tools_ratio": tools_ratio}))


if __name__ == "__main__":
    main()
