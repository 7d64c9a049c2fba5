"""What a client has to be told: facts of the running service in, files with values out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NO_KEY = "tokenwell"  # clients insist on a key even where the service asks for none
PROVIDER = "tokenwell"  # the name under which clients list this service

_MOST_OUTPUT_TOKENS = 16_384

Values = dict[tuple[str, ...], object]  # path of keys -> what stands there


@dataclass(frozen=True)
class Service:
    """The running service as clients are told of it."""

    url: str  # without a path: http://127.0.0.1:8000
    model: str
    window_tokens: int  # enforced, prompt and answer together
    key: str = ""  # empty: none is needed
    reasons: bool = False  # the model may think before it answers

    @property
    def openai_url(self) -> str:
        """The base URL that OpenAI clients want."""
        return f"{self.url}/v1"

    @property
    def any_key(self) -> str:
        """The key, or a placeholder that is not empty."""
        return self.key or NO_KEY

    @property
    def output_tokens(self) -> int:
        """The longest answer that clients should ask for.

        They keep this much of the window free, so a quarter at most: the prompt, not the answer, is what grows in agents.
        """
        return max(1, min(self.window_tokens // 4, _MOST_OUTPUT_TOKENS))

    @property
    def compact_tokens(self) -> int:
        """The length of a conversation at which a client should shorten it: what is left when the answer has its room."""
        return max(1, self.window_tokens - self.output_tokens)


@dataclass(frozen=True)
class Configuration:
    """One file of a client. `places`: below the home folder, the first that exists is meant, else the first."""

    places: tuple[str, ...]
    format: Literal["json", "json5", "toml", "yaml", "env"]
    values: Values


@dataclass(frozen=True)
class Plan:
    """Everything for one client, and what its user still has to know."""

    files: tuple[Configuration, ...]
    notes: tuple[str, ...] = ()
    least_window_tokens: int = 0  # the client is of no use with less
