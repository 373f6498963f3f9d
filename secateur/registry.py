"""One small registry for everything that is looked up by name."""

from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar, cast

from secateur.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to classes. An entry may be a `"module:attribute"` string, imported when first asked for.

    Lazy entries keep `--help` and study validation free of the seconds that importing torch costs.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}

    def add(self, name: str, entry: T | str) -> None:
        """Register `entry`; a name that is taken by something else is an error."""
        if name in self._entries and self._entries[name] != entry:
            raise ValueError(f"{self.kind} {name!r} is already registered as {self._entries[name]!r}")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry called `name`; raises `UserError` with near names when there is none."""
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = self._entries[name] = cast(T, getattr(import_module(module), attribute))
        return entry

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
