"""The names under which the model is served. Knows nothing about engines."""

from __future__ import annotations

from pathlib import Path

from tokenwell.wire.errors import RequestError


class Catalogue:
    """One model and its names; the first name is the one told to clients."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.names: tuple[str, ...] = tuple(dict.fromkeys(names)) or (folder.resolve().name,)
        self._accepted = {*self.names, folder.resolve().name, str(folder), str(folder.resolve())}

    @property
    def name(self) -> str:
        """The name that responses carry when the client gave none."""
        return self.names[0]

    def resolve(self, wanted: str | None) -> str:
        """The name to answer with: what the client asked for, or the first when it asked for none. Raises UnknownModel."""
        if not wanted:
            return self.name
        if wanted not in self._accepted:
            raise UnknownModel(wanted, self.names)
        return wanted


class UnknownModel(Exception):  # noqa: N818
    """A client asked for a model that is not served here."""

    def __init__(self, wanted: str, names: tuple[str, ...]) -> None:
        served = ", ".join(f"`{name}`" for name in names)
        shown = wanted if len(wanted) <= 200 else wanted[:200] + "…"
        self.error = RequestError("model_not_found", f"The model `{shown}` does not exist. Served here: {served}.")
        super().__init__(self.error.message)
