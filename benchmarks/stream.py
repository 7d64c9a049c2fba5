"""A light streaming client for benchmarks: when did each token arrive?"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Stream:
    """The arrival times of one stream's tokens, on time.perf_counter's clock."""

    sent_at: float
    times: list[float]

    @property
    def first_at(self) -> float:
        """When the first token arrived."""
        return self.times[0]

    @property
    def last_at(self) -> float:
        """When the last token arrived."""
        return self.times[-1]

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first_at - self.sent_at


def stream_completion(url: str, prompt: list[int], new_tokens: int, **more: Any) -> Stream:
    """Stream one greedy completion of exactly `new_tokens` tokens."""
    body = {"prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body |= {"return_token_ids": True, **more}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    sent = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    times: list[float] = []
    for line in response:
        if line.startswith(b'data: {"') and b'"token_ids":[' in line:
            choices = json.loads(line[6:])["choices"]
            times += [time.perf_counter()] * len(choices[0].get("token_ids") or []) if choices else []
    connection.close()
    assert len(times) == new_tokens, f"{len(times)} tokens instead of {new_tokens}"
    return Stream(sent, times)
