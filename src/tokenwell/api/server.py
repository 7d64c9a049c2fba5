"""The gateway process from start to end: chat model, supervisor, uvicorn, ready message, signals, drain.

Puts the parts together; knows nothing of what they do inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
import uvloop

from tokenwell.api.app import build
from tokenwell.api.auth import keys_for
from tokenwell.chat.model import ChatModel
from tokenwell.config.settings import Settings
from tokenwell.drivers.scripted.command import engine_command
from tokenwell.service.catalogue import Catalogue
from tokenwell.service.gateway import Gateway
from tokenwell.service.promise import Promise
from tokenwell.service.supervisor import Supervisor
from tokenwell.telemetry.log import set_up
from tokenwell.telemetry.metrics import Metrics
from tokenwell.wire.cache import concurrency
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice, Ready
from tokenwell.wire.spec import EngineSpec

NATIVE_ENGINE = (sys.executable, "-m", "tokenwell.engine")
_LAST_WORDS_S = 2  # how long connections may take to end once their requests have

_log = logging.getLogger("tokenwell.server")


def serve(settings: Settings, engine_command: Sequence[str] = NATIVE_ENGINE, promise: Promise | None = None) -> int:
    """Serve until a signal says otherwise, comparing what comes with `promise`. Returns the exit status.

    Raises SettingsError without a checkpoint folder or when the address cannot be bound, CheckpointError when the
    checkpoint's chat side cannot be used.
    """
    set_up(settings.log.level, settings.log.json)
    return uvloop.run(_serve(settings, engine_command, promise))


def serve_scripted(settings: Settings, promise: Promise | None = None) -> int:
    """`serve` with the scripted engine, for whose folder and chat format the settings are; nobody plans for it."""
    with tempfile.TemporaryDirectory(prefix="tokenwell-scripted-") as folder:
        return serve(settings, engine_command(settings.scripted, settings.model.chat_format, Path(folder)))


async def _serve(settings: Settings, engine_command: Sequence[str], promise: Promise | None) -> int:
    folder = _folder(settings)
    listener = _bind(settings.server.host, settings.server.port)
    with listener:
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        supervisor = Supervisor(
            engine_command,
            engine_spec(settings, folder, None if promise is None else promise.planned.kv_bytes),
            heartbeat_timeout_s=settings.engine.heartbeat_timeout_s,
            step_timeout_s=settings.engine.step_timeout_s,
            on_first_ready=ready.set_result,
            replicas=settings.engine.replicas or 1,
        )
        supervisor.start()  # engines load while this process reads the tokenizer
        try:
            model = await asyncio.to_thread(_chat_model, settings, folder)
            catalogue = Catalogue(folder, settings.model.name)
            keys, generated_key = keys_for(settings.server.host, settings.server.api_key)
            url = _url(settings.server.host, listener.getsockname()[1])

            def greet(ready: asyncio.Future[Ready]) -> None:
                if ready.cancelled():
                    return
                words = "" if promise is None else promise.planned.words
                print(ready_message(ready.result(), url, catalogue, generated_key, model.choices, words), flush=True)
                if promise is not None:
                    promise.loaded(ready.result())

            ready.add_done_callback(greet)
            await _listen(Gateway(settings, model, catalogue, supervisor, Metrics(), promise), keys, listener)
        finally:
            await supervisor.stop()
    return 0


def _chat_model(settings: Settings, folder: Path) -> ChatModel:
    override = settings.model.chat_template
    return ChatModel.load(
        folder,
        chat_template=None if override is None else Path(override),
        chat_format=settings.model.chat_format,
        keep_nonces=settings.model.keep_nonces,
    )


async def _listen(gateway: Gateway, keys: list[str], listener: socket.socket) -> None:
    """Answer HTTP until the first signal; then drain. A second signal ends everything at once."""
    server = _Server(
        uvicorn.Config(
            build(gateway, keys),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_WORDS_S,
        )
    )
    leaving: list[asyncio.Task[None]] = []

    async def leave() -> None:
        drain_s = gateway.settings.server.drain_s
        _log.info("draining: up to %g s for %d running requests", drain_s, gateway.supervisor.open_jobs)
        if not await gateway.drain(drain_s):
            _log.warning("%d requests were still running after %g s and are ended", gateway.supervisor.open_jobs, drain_s)
        await gateway.supervisor.stop()
        server.should_exit = True

    def on_signal() -> None:
        if leaving:
            _log.warning("second signal: leaving at once")
            server.should_exit = server.force_exit = True
        else:
            leaving.append(asyncio.create_task(leave()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in leaving:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: draining comes before its shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def engine_spec(settings: Settings, folder: Path, kv_plan_bytes: int | None = None) -> EngineSpec:
    """What the engine is told; the supervisor adds the endpoints. `kv_plan_bytes`: what a plan gives the KV cache of a rank."""
    engine = settings.engine
    return EngineSpec(
        checkpoint=str(folder),
        commands="",
        events="",
        device=engine.device,
        dtype=engine.dtype,
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
        load_format=engine.load_format,
        tp=engine.tp or 1,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_gib=engine.kv_cache_gib,
        kv_plan_bytes=kv_plan_bytes,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        ple_offload=engine.ple_offload,
        graphs=engine.graphs,
        page_tokens=engine.page_tokens,
        prefix_cache=engine.prefix_cache,
        threads=engine.threads,
        parent_pid=os.getpid(),
        log_level=settings.log.level,
    )


def ready_message(
    ready: Ready, url: str, catalogue: Catalogue, generated_key: str | None, chat_choices: Sequence[Choice], planned: str = ""
) -> str:
    """What a person wants to know once the first request can be answered; `planned`: the plan's choice in words."""
    lines = [
        f"Tokenwell is ready at {url}/v1",
        f"  model     {', '.join(catalogue.names)} ({ready.architecture}, {ready.dtype} on {ready.device},"
        f" loaded in {ready.load_seconds:.1f} s)",
        f"  window    {ready.max_model_len} tokens, prompt and answer together",
        f"  capacity  {capacity(ready)}",
    ]
    if planned:
        lines.append(f"  plan      {planned} GET /plan tells more")
    if generated_key is not None:
        lines.append(
            f"  API key   {generated_key} (generated: this address is reachable from outside; set your own with --api-key)"
        )
    lines += [f"  {choice.what}: {choice.chosen} ({choice.reason})" for choice in (*ready.choices, *chat_choices)]
    return "\n".join(lines)


def capacity(ready: Ready) -> str:
    """How many sessions of which length the KV cache holds at once, per layer group: `3 sessions x 32768 tokens or …`."""
    parts = []
    tokens = ready.max_model_len
    while tokens >= 1:
        sessions = min(ready.max_num_seqs, int(concurrency(ready.num_pages, tokens, ready.max_num_batched_tokens, ready.groups)))
        parts.append(f"{sessions} session{'s' if sessions != 1 else ''} x {tokens} tokens")
        if sessions >= ready.max_num_seqs or len(parts) == 3:
            break
        tokens //= 4
    return " or ".join(parts)


def _folder(settings: Settings) -> Path:
    if settings.model.path is None:
        raise SettingsError("model.path is not set: name the checkpoint folder to serve")
    folder = Path(settings.model.path)
    if not folder.is_dir():
        raise SettingsError(f"model.path: there is no folder {folder}")
    return folder


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket's address, taken before the model is loaded. Raises SettingsError when it is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"server.host: {host!r} is no address of this machine: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port") from error
    listener.set_inheritable(False)
    return listener


def _url(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
