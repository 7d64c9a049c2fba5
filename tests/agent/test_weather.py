"""The weather from the fixture and from a service that answers as Open-Meteo does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tokenwell.agent import weather as module
from tokenwell.agent.errors import ToolError
from tokenwell.agent.weather import FIXTURE, SERVICE, weather

TODAY = date(2026, 3, 4)


class Meteo:
    """What the service would answer, and what it was asked."""

    def __init__(self) -> None:
        self.places: Any = {"results": [{"name": "Bonn", "latitude": 50.7, "longitude": 7.1}]}
        self.days: Any = {
            "daily": {
                "time": ["2026-03-05", "2026-03-06"],  # a day ahead of us
                "weather_code": [61, 3],
                "temperature_2m_min": [1.6, 2.0],
                "temperature_2m_max": [7.4, 9.0],
                "precipitation_probability_max": [85, None],
            }
        }
        self.asked: list[dict[str, list[str]]] = []


@pytest.fixture
def meteo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meteo]:
    state = Meteo()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.asked.append(parse_qs(parts.query))
            content = state.places if parts.path == "/places" else state.days
            self.send_response(500 if content is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(module, "_PLACES_URL", f"http://127.0.0.1:{server.server_port}/places")
    monkeypatch.setattr(module, "_FORECAST_URL", f"http://127.0.0.1:{server.server_port}/forecast")
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_fixture_says_what_it_is() -> None:
    assert weather("shanghai", "", TODAY, offline=True) == {
        "city": "shanghai",
        "date": "2026-03-04",
        "condition": "light rain",
        "temperature_min_c": 9,
        "temperature_max_c": 14,
        "rain_probability_percent": 80,
        "source": FIXTURE,
    }
    assert "offline" in FIXTURE
    assert weather("上海市", "明天", TODAY, offline=True)["date"] == "2026-03-05"


def test_a_city_or_a_day_that_the_fixture_does_not_have_is_not_invented() -> None:
    with pytest.raises(ToolError, match=r"the offline fixture has no Bonn; it has Shanghai, "):
        weather("Bonn", "today", TODAY, offline=True)
    with pytest.raises(ToolError, match="the date 'some day' is not known"):
        weather("Shanghai", "some day", TODAY, offline=True)


def test_a_forecast(meteo: Meteo) -> None:
    today = weather("bonn", "today", TODAY, offline=False)  # the city's own today
    assert today == {
        "city": "Bonn",
        "date": "2026-03-05",
        "condition": "light rain",
        "temperature_min_c": 2,
        "temperature_max_c": 7,
        "rain_probability_percent": 85,
        "source": SERVICE,
    }
    assert meteo.asked[0]["name"] == ["bonn"] and meteo.asked[1]["latitude"] == ["50.7"]
    assert weather("Bonn", "tomorrow", TODAY, offline=False)["rain_probability_percent"] == 0
    with pytest.raises(ToolError, match="the forecast reaches from 2026-03-05 to 2026-03-06, and 2026-05-01 is not in it"):
        weather("Bonn", "2026-05-01", TODAY, offline=False)


def test_a_city_that_nobody_knows_is_an_error_and_no_fixture(meteo: Meteo) -> None:
    meteo.places = {"generationtime_ms": 0.5}
    with pytest.raises(ToolError, match="there is no city Shanghai"):
        weather("Shanghai", "", TODAY, offline=False)


@pytest.mark.parametrize("answer", [None, [], {"daily": {}}, {"daily": {"time": []}}, {"error": True}])
def test_a_service_that_does_not_work_is_replaced_by_the_fixture_which_says_so(meteo: Meteo, answer: Any) -> None:
    meteo.days = answer
    assert weather("London", "", TODAY, offline=False)["source"] == FIXTURE


def test_a_place_without_coordinates(meteo: Meteo) -> None:
    meteo.places = {"results": [{"name": "London"}]}
    assert weather("London", "", TODAY, offline=False)["source"] == FIXTURE


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "foo://x"])
def test_a_proxy_that_cannot_be_used_is_no_network(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert weather("London", "", TODAY, offline=False)["source"] == FIXTURE


def test_without_a_network_the_fixture_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PLACES_URL", "http://127.0.0.1:9/places")
    assert weather("London", "", TODAY, offline=False)["source"] == FIXTURE
