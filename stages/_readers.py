"""Readers that turn files into documents, in order; every reader is a function from paths to texts.

`text`: a document a file. `paragraphs`: a document each paragraph (between blank lines). `mediawiki`: a document each
article of an XML dump (.xml or .xml.bz2), as plain prose. CR LF becomes a plain line end; a byte-order mark is no text.
"""

import bz2
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from secateur.errors import UserError
from stages._encoding import is_marked

Reader = Callable[[list[Path]], Iterator[str]]


def read_text(paths: list[Path]) -> Iterator[str]:
    """One document a file."""
    for path in paths:
        yield _decode(path)


def read_paragraphs(paths: list[Path]) -> Iterator[str]:
    """One document each paragraph; blank lines divide them, so joined with a blank line they are the file again."""
    for path in paths:
        yield from (part for part in re.split(r"\n[ \t]*\n\s*", _decode(path).strip()) if part)


def _decode(path: Path) -> str:
    content = path.read_bytes()
    mark = "\ufeff" if is_marked(content[:4], path.name) else ""
    try:
        text = content.decode("utf-8").removeprefix(mark)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise UserError(f"{path.name} is not text: NUL at character {text.index(chr(0))}")
    return text


def read_mediawiki(paths: list[Path]) -> Iterator[str]:
    """The articles of MediaWiki dumps: main namespace, no redirects, no disambiguation pages, nothing but prose."""
    from stages._wikitext import article_text

    for path in paths:
        for markup in _articles(path):
            if text := article_text(markup):
                yield text


def _articles(path: Path) -> Iterator[str]:
    """Markup of every page of the main namespace that is not a redirect, one page in memory at a time."""
    with bz2.open(path) if path.suffix == ".bz2" else path.open("rb") as file:
        try:
            for _, element in ElementTree.iterparse(file):
                if element.tag.rpartition("}")[2] != "page":
                    continue
                if element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None:
                    yield element.findtext("{*}revision/{*}text") or ""
                element.clear()
        except (ElementTree.ParseError, EOFError, OSError) as error:
            raise UserError(f"{path.name} is not a whole MediaWiki dump: {error}") from error


READERS: dict[str, Reader] = {"mediawiki": read_mediawiki, "paragraphs": read_paragraphs, "text": read_text}
