"""How long an answer is that the client did not limit: as generation_config.json says, unless the client wants more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes.checkpoint import write_checkpoint
from tests.fakes.running import Running


def test_the_checkpoints_limit_and_the_clients(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "limited")
    generation = checkpoint / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"max_new_tokens": 25}))
    asked: list[dict[str, Any]] = [{}, {"max_tokens": 30}, {"min_tokens": 27}, {"max_tokens": 3}]
    with Running(checkpoint, tmp_path) as running:
        running.ready()
        bodies = [{"messages": [{"role": "user", "content": "Hello!"}], "ignore_eos": True} | each for each in asked]
        answers = [running.client.post("/v1/chat/completions", json=body).json() for body in bodies]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [25, 30, 27, 3]
    assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"length"}
