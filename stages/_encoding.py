"""Byte-order marks, with which some programs begin a text to say how it is encoded. UTF-8's is no part of the text."""

import codecs

from secateur.errors import UserError

UTF8 = codecs.BOM_UTF8
# UTF-32 first: the little-endian marks begin alike.
OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def is_marked(start: bytes, name: str) -> bool:
    """Whether a text (its first bytes are `start`) begins with the mark of UTF-8; that of another encoding is a `UserError`."""
    for mark, encoding in OTHERS:
        if start.startswith(mark):
            raise UserError(
                f"{name} is {encoding} text, as its byte-order mark says, and only UTF-8 is read; convert it: "
                f"iconv -f {encoding} -t UTF-8 IN > OUT"
            )
    return start.startswith(UTF8)
