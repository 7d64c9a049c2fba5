"""What an API needs from the service, in one object: the model's words, its names, admission, generations and health.

Owns admission (queue bound, draining). Knows no HTTP and no dialect.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tokenwell.chat.conversation import Prompt
from tokenwell.chat.model import ChatModel
from tokenwell.config.settings import Settings
from tokenwell.service.cache_doctor import CacheDoctor, Turn
from tokenwell.service.catalogue import Catalogue
from tokenwell.service.generation import Generation, StopRules
from tokenwell.service.job import RequestFailed
from tokenwell.service.keeper import Health
from tokenwell.service.promise import Promise
from tokenwell.service.supervisor import Supervisor
from tokenwell.telemetry.metrics import Metrics
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate

RETRY_AFTER_QUEUE_S = 2.0
RETRY_AFTER_DRAIN_S = 10.0


class Gateway:
    """The service as seen by the API layer."""

    def __init__(
        self,
        settings: Settings,
        model: ChatModel,
        catalogue: Catalogue,
        supervisor: Supervisor,
        metrics: Metrics,
        promise: Promise | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.catalogue = catalogue
        self.supervisor = supervisor
        self.metrics = metrics
        self.promise = promise  # None where nothing was planned
        self.draining = False
        self._doctor = CacheDoctor()

    # ------------------------------------------------------------------ facts

    @property
    def window_tokens(self) -> int | None:
        """The context window that the engine enforces; None until an engine has been ready once."""
        ready = self.supervisor.ready
        return None if ready is None else ready.max_model_len

    @property
    def vocab_size(self) -> int:
        """Token ids below this may be sent to the engine."""
        ready = self.supervisor.ready
        return self.model.tokenizer.vocab_size if ready is None else ready.vocab_size

    def health(self) -> Health:
        """The engine's health, or `draining` once the service is leaving."""
        health = self.supervisor.health()
        if not self.draining:
            return health
        return replace(health, healthy=False, state="draining", reason="the service is shutting down")

    # ------------------------------------------------------------------ requests

    def admit(self) -> None:
        """Raise RequestFailed if a new request cannot be taken now: stopping, broken for good, or the queue is full."""
        if self.draining:
            raise RequestFailed(
                RequestError("draining", "The service is shutting down and takes no new requests."), RETRY_AFTER_DRAIN_S
            )
        health = self.supervisor.health()
        if health.state == "failed":
            raise RequestFailed(
                RequestError("engine_failed", f"The engine cannot serve and will not be started again: {health.reason}")
            )
        ready = self.supervisor.ready
        slots = 0 if ready is None else ready.max_num_seqs
        if self.supervisor.open_sequences >= slots + self.settings.server.max_queue:
            raise RequestFailed(
                RequestError(
                    "queue_full",
                    f"The queue is full: {self.supervisor.open_sequences} sequences are running or waiting. Try again shortly.",
                ),
                RETRY_AFTER_QUEUE_S,
            )

    def generation(
        self,
        requests: list[Generate],
        *,
        choices: int,
        noun: str,
        prompt: Prompt | None,
        stop: StopRules,
        skip_special_tokens: bool,
        eager: bool,
        every_token: bool,
    ) -> Generation:
        """A generation that is queued when it is entered. Raises RequestFailed when admission says no.

        `prompt` is the rendered conversation whose format the answer is parsed in; None for plain text.
        """
        self.admit()
        return Generation(
            self.supervisor,
            requests,
            choices=choices,
            noun=noun,
            stop=stop,
            make_stream=lambda id: self.model.stream(
                prompt, id, stop=stop.strings, include_stop=stop.include, skip_special_tokens=skip_special_tokens
            ),
            eager=eager,
            every_token=every_token,
        )

    def examine(self, prompt: Prompt) -> Turn | None:
        """How the prompt compares with the turn before it; None without a prefix cache. Takes milliseconds."""
        if not self.settings.engine.prefix_cache:
            return None
        return self._doctor.examine(prompt.conversation, prompt.tokens)

    # ------------------------------------------------------------------ leaving

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait until the running ones are done. False when some were left after `timeout_s`."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.supervisor.open_jobs:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.05)
        return True
