"""Checks of what stands between clients and the service: proxies and ports. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tokenwell.doctor.finding import Finding
from tokenwell.host.survey import Survey

_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_HERE = ("localhost", "127.0.0.1")
_LAST_PORT = 65535


def check_proxy(survey: Survey) -> Iterator[Finding]:
    """A proxy that is also asked for this machine breaks every local client."""
    proxies = [name for name in _PROXIES if survey.environment.get(name)]
    if not proxies:
        yield Finding("proxy", "ok", "No proxy is set.")
        return
    missing = [host for host in _HERE if not _excepted(survey.environment, host)]
    if missing:
        sentence = (
            f"{proxies[0]} is set and NO_PROXY lacks {' and '.join(missing)}: local clients ask the proxy for this service."
        )
        hosts = "localhost,127.0.0.1,::1"
        fix = f'export NO_PROXY="{hosts}${{NO_PROXY:+,$NO_PROXY}}"; export no_proxy="$NO_PROXY"'
        yield Finding("proxy", "warn", sentence, fix)
    else:
        yield Finding("proxy", "ok", f"{proxies[0]} is set, but not for this machine.")


def _excepted(environment: Mapping[str, str], host: str) -> bool:
    # Lower case wins where both are set, and programs that know one spelling only exist: each that is set must name the host.
    values = [environment[name] for name in _EXCEPTIONS if environment.get(name)]
    return bool(values) and all(host in _hosts(value) or "*" in _hosts(value) for value in values)


def _hosts(value: str) -> set[str]:
    names = {entry.strip().partition(":")[0] for entry in value.split(",")}
    return names | ({"127.0.0.1"} if names & {"127.0.0.0/8", "127.0.0.1/8", "127."} else set())


def check_port(survey: Survey) -> Iterator[Finding]:
    """Whether the service's port is free."""
    ports, port = survey.ports, survey.port
    if port == 0:
        return
    if ports is None:
        yield Finding("port", "unknown", f"Whether port {port} is free cannot be seen.")
    elif port in ports:
        free = next((other for other in range(port + 1, _LAST_PORT + 1) if other not in ports), 0)
        sentence = f"Port {port} is taken by another program, or by a running Tokenwell."
        yield Finding("port", "warn", sentence, f"tokenwell serve --port {free}")
    else:
        yield Finding("port", "ok", f"Port {port} is free.")
