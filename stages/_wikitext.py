"""Wiki markup to prose: what a reader of the article sees, without boxes, tables, notes and link lists."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node, Template, Wikilink
    from mwparserfromhell.wikicode import Wikicode

# Elements that are not prose.
SKIPPED_TAGS = {"ref", "references", "table", "gallery", "math", "timeline", "imagemap", "score", "hiero", "pre", "hr"}
SKIPPED_TAGS |= {"source", "syntaxhighlight"}
# Sections that list works and links; their sub-sections go with them.
SKIPPED_SECTIONS = re.compile(
    r"(see also|external (links|sources)|further reading|gallery|bibliography|works cited|filmography|discography"
    r"|(\w+ )?(references?|notes|sources|footnotes|citations)( and (references?|notes|sources|footnotes|citations))?)"
)
SKIPPED_LINKS = {"file", "image", "media", "category"}
INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
DISAMBIGUATION = {"disambiguation", "disambig", "disamb", "dab", "hndis", "geodis", "surname", "given name"}

# Templates inside sentences: the arguments that a reader sees, and what stands between them. All other templates are
# boxes, hints or citations and are dropped.
SHOWN: dict[str, tuple[str, str]] = {
    "chem": ("123456789", ""),
    "convert": ("12", " "),
    "cvt": ("12", " "),
    "frac": ("12", "/"),
    "lang": ("2", ""),
    "transl": ("2", ""),
}
SHOWN |= dict.fromkeys(("abbr", "angbr", "blockquote", "cquote", "flag", "ipa", "keypress", "mvar"), ("1", ""))
SHOWN |= dict.fromkeys(("nihongo", "nobr", "nowrap", "nts", "quotation", "quote", "sc", "small"), ("1", ""))
SHOWN |= dict.fromkeys(("smallcaps", "smaller", "unicode", "val", "vanchor", "vr"), ("1", ""))
FIXED = {"ndash": "\N{EN DASH}", "mdash": "\N{EM DASH}", "spaced ndash": " \N{EN DASH} ", "snd": " \N{EN DASH} "}
FIXED |= {"nbsp": " ", "'": "'", "'s": "'s", "·": " · "}


def article_text(markup: str) -> str:
    """The prose of one article, paragraphs divided by blank lines; empty for a disambiguation page."""
    import mwparserfromhell

    # Left in, unbalanced '' and ''' hide the tags after them from the parser; _tidy drops the marks.
    code = mwparserfromhell.parse(markup, skip_style_tags=True)
    if any(_name(template) in DISAMBIGUATION for template in code.filter_templates(recursive=False)):
        return ""
    return "\n\n".join(_paragraphs(code))


def _paragraphs(code: "Wikicode") -> Iterator[str]:
    """Heading and paragraphs of each section that has any text of its own."""
    skipped_level = 7
    for section in code.get_sections(flat=True, include_lead=True):
        headings = section.filter_headings(recursive=False)
        title = ""
        if headings:
            title = _tidy(_plain(headings[0].title))
            if headings[0].level <= skipped_level:
                skipped_level = headings[0].level if SKIPPED_SECTIONS.fullmatch(title.lower()) else 7
            if skipped_level < 7:
                continue
            section.remove(headings[0])
        if body := _tidy(_plain(section)):
            yield from [title, body] if title else [body]


def _plain(code: "Wikicode | None") -> str:
    return "".join(_shown(node) for node in code.nodes) if code is not None else ""


def _shown(node: "Node") -> str:
    """What a reader of the page sees of one node."""
    from mwparserfromhell import nodes

    match node:
        case nodes.Text():
            return str(node)
        case nodes.HTMLEntity():
            return node.normalize()
        case nodes.Heading():
            return f"\n\n{_plain(node.title)}\n\n"
        case nodes.ExternalLink():
            return _plain(node.title)
        case nodes.Wikilink():
            return _link(node)
        case nodes.Template():
            return _template(node)
        case nodes.Tag():
            name = str(node.tag).strip().lower()
            if name in SKIPPED_TAGS:
                return ""
            return "\n" if name == "br" else _plain(node.contents)
    return ""  # comments and template parameters


def _link(node: "Wikilink") -> str:
    title = str(node.title).strip()
    prefix = title.partition(":")[0].strip().lower() if ":" in title else ""
    if prefix in SKIPPED_LINKS or (node.text is None and prefix and INTERLANGUAGE.fullmatch(prefix)):
        return ""
    return _plain(node.text) if node.text is not None else _plain(node.title).lstrip(":")


def _name(template: "Template") -> str:
    return " ".join(str(template.name).replace("_", " ").split()).lower()


def _template(node: "Template") -> str:
    name = _name(node)
    if name in FIXED:
        return FIXED[name]
    arguments, between = SHOWN.get(name, ("1" if name.startswith("lang-") else "", ""))
    return between.join(_plain(node.get(argument).value).strip() for argument in arguments if node.has(argument))


def _tidy(text: str) -> str:
    """Close the holes that removed markup leaves, and make every run of line breaks one paragraph break."""
    text = re.sub(r"__[A-Z]+__|''+", "", text).replace("\xa0", " ")
    text = re.sub(r"[ \t]+", " ", text)
    for _ in range(2):  # brackets in brackets
        text = re.sub(r" ?[(\[][\s,;:/\u2013-]*[)\]]", "", text)
    text = re.sub(r"([(\[])[ ,;:]+", r"\1", text)
    text = re.sub(r"[ ,;:]+([)\]])", r"\1", text)
    text = re.sub(r" ([,;.])(?=\s|$)", r"\1", text)
    lines = (line.strip() for line in text.split("\n"))
    # Lines of tables that were never closed are not parsed as tables.
    return "\n\n".join(line for line in lines if re.search(r"\w", line) and not line.startswith(("|", "{|", "!")))
