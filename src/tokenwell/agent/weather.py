"""The weather of one day in one city: from Open-Meteo, or from a few fixed entries where there is no network.

Whoever gets a result sees which of the two it was. Sources: https://open-meteo.com/en/docs and .../docs/geocoding-api; the
words for weather codes are those of WMO code table 4677, shortened.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from tokenwell.agent.errors import ToolError
from tokenwell.agent.moment import day

Forecast = dict[str, str | int]

SERVICE = "open-meteo.com"
FIXTURE = "offline fixture, not a real forecast"
_PLACES_URL = "https://geocoding-api.open-meteo.com/v1/search"
_FORECAST_URL = "https://api.open-meteo.com/v1/forecast"
_PATIENCE_S = 5.0

_CONDITIONS = {
    "clear": (0, 1), "partly cloudy": (2,), "cloudy": (3,), "fog": (45, 48), "drizzle": (51, 53, 55),
    "freezing rain": (56, 57, 66, 67), "light rain": (61,), "rain": (63,), "heavy rain": (65,), "light snow": (71,),
    "snow": (73, 77), "heavy snow": (75,), "rain showers": (80, 81), "heavy rain showers": (82,), "snow showers": (85, 86),
    "thunderstorm": (95,), "thunderstorm with hail": (96, 99),
}  # fmt: skip
_CONDITION = {code: words for words, codes in _CONDITIONS.items() for code in codes}

# Invented days: condition, lowest and highest temperature, probability of rain.
_FIXED: dict[str, tuple[str, int, int, int]] = {
    "Shanghai": ("light rain", 9, 14, 80),
    "Beijing": ("clear", -2, 8, 0),
    "Shenzhen": ("partly cloudy", 17, 25, 10),
    "London": ("drizzle", 6, 11, 65),
    "Paris": ("cloudy", 5, 12, 20),
    "Berlin": ("snow", -3, 1, 15),
    "New York": ("clear", 3, 10, 5),
    "San Francisco": ("fog", 9, 15, 10),
    "Tokyo": ("partly cloudy", 8, 16, 10),
    "Singapore": ("thunderstorm", 25, 31, 90),
    "Sydney": ("clear", 16, 24, 5),
}
_CHINESE = {
    "上海": "Shanghai", "北京": "Beijing", "深圳": "Shenzhen", "伦敦": "London", "巴黎": "Paris", "柏林": "Berlin",
    "纽约": "New York", "旧金山": "San Francisco", "东京": "Tokyo", "新加坡": "Singapore", "悉尼": "Sydney",
}  # fmt: skip


class UnreachableError(Exception):
    """The weather service cannot be reached, or gives no answer that can be used."""


def weather(city: str, said_day: str, today: date, *, offline: bool) -> Forecast:
    """One day's weather. `said_day` is "today", "tomorrow", a date, or empty for today; `offline` asks nobody.

    Raises ToolError for a city or a day that is not known.
    """
    if not offline:
        try:
            return _asked(city, said_day, today)
        except UnreachableError:
            pass  # the result's source says that it is the fixture
    return _fixed(city, said_day, today)


def _fixed(city: str, said_day: str, today: date) -> Forecast:
    wanted = _day(said_day, today)
    name = city.strip().removesuffix("市")
    name = _CHINESE.get(name, name)
    known = next((each for each in _FIXED if each.casefold() == name.casefold()), None)
    if known is None:
        raise ToolError(f"there is no network, and the offline fixture has no {city}; it has {', '.join(_FIXED)}")
    condition, low, high, rain = _FIXED[known]
    return _forecast(city.strip(), wanted.isoformat(), condition, low, high, rain, FIXTURE)


def _forecast(city: str, date: str, condition: str, low: float, high: float, rain: float, source: str) -> Forecast:
    return {
        "city": city, "date": date, "condition": condition, "temperature_min_c": round(low), "temperature_max_c": round(high),
        "rain_probability_percent": round(rain), "source": source,
    }  # fmt: skip


def _day(said_day: str, today: date) -> date:
    found = day(said_day or "today", today)
    if found is None:
        raise ToolError(f"the date {said_day!r} is not known; give today, tomorrow or a date such as {today}")
    return found


def _asked(city: str, said_day: str, today: date) -> Forecast:
    """The forecast by Open-Meteo. "today" is the city's own day, not ours."""
    language = "en" if city.isascii() else "zh"
    places = _got(_PLACES_URL, {"name": city.strip(), "count": 1, "language": language}).get("results")
    if not places:
        raise ToolError(f"there is no city {city}")
    try:
        place = places[0]
        answer = _got(
            _FORECAST_URL,
            {
                "latitude": place["latitude"],
                "longitude": place["longitude"],
                "daily": "weather_code,temperature_2m_min,temperature_2m_max,precipitation_probability_max",
                "timezone": "auto",
                "forecast_days": 16,
            },
        )
        days = answer["daily"]
        there = date.fromisoformat(days["time"][0])
        wanted = _day(said_day, there).isoformat()
        if wanted not in days["time"]:
            raise ToolError(f"the forecast reaches from {days['time'][0]} to {days['time'][-1]}, and {wanted} is not in it")
        at = days["time"].index(wanted)
        return _forecast(
            str(place["name"]), wanted, _CONDITION[days["weather_code"][at]], days["temperature_2m_min"][at],
            days["temperature_2m_max"][at], days["precipitation_probability_max"][at] or 0, SERVICE,
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnreachableError(f"an answer of another form: {error}") from error


def _got(url: str, query: dict[str, Any]) -> dict[str, Any]:
    """The JSON object at an address. Raises UnreachableError for everything that is none."""
    import httpx2  # here, because who stays offline need not wait for it

    try:
        with httpx2.Client(timeout=_PATIENCE_S) as http:
            answer = http.get(url, params=query).raise_for_status()
        content = json.loads(answer.content)
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, ValueError) as error:  # some of a proxy that cannot be used
        raise UnreachableError(str(error)) from error
    if not isinstance(content, dict):
        raise UnreachableError("an answer that is no object")
    return content
