"""Plain text out of HTML and Mallard pages, and what all text goes through."""

import html.parser
import re
import unicodedata
import xml.etree.ElementTree as ElementTree

END_OF_DOCUMENT = "<|endoftext|>"

_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ue000-\uf8ff]")


def clean(text, is_code=False):
    """Unix line ends, no control characters, no space at line ends, at most one empty line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    if not is_code:
        text = unicodedata.normalize("NFC", text).replace("\u00a0", " ").replace("\u00ad", "")
    text = _UNWANTED.sub("", text).replace("\ufffd", "")
    text = text.replace(END_OF_DOCUMENT, "")
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()


class _HtmlText(html.parser.HTMLParser):
    LINES = {"br", "li", "tr", "dd", "dt"}
    CLOSED_LINES = {"li", "tr", "dd", "dt"}
    BLOCKS = LINES | {
        "p", "div", "ul", "ol", "dl", "table", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "hr",
        "blockquote", "section", "article", "title",
    }
    LEFT_OUT = {"script", "style", "head", "nav", "footer", "header", "svg", "button", "form"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []
        self.left_out = 0  # depth of elements that are left out
        self.preformatted = 0

    def handle_starttag(self, tag, attrs):
        if tag in self.LEFT_OUT:
            self.left_out += 1
        if tag in self.BLOCKS:
            self.parts.append("\n" if tag in self.LINES else "\n\n")
        if tag == "pre":
            self.preformatted += 1
        if tag in ("td", "th"):
            self.parts.append(" ")

    def handle_endtag(self, tag):
        if tag in self.LEFT_OUT and self.left_out:
            self.left_out -= 1
        if tag in self.BLOCKS:
            self.parts.append("\n" if tag in self.CLOSED_LINES else "\n\n")
        if tag == "pre" and self.preformatted:
            self.preformatted -= 1

    def handle_data(self, data):
        if not self.left_out:
            self.parts.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def html_text(source):
    parser = _HtmlText()
    parser.feed(source)
    parser.close()
    text = "".join(parser.parts)
    text = re.sub(r"[ \t]*\n[ \t]*\n[ \t\n]*", "\n\n", text)
    return "\n".join(
        line if line.startswith("    ") else line.strip() for line in text.split("\n"))


def mallard_text(path):
    """A page of GNOME's help; "" when it is not well-formed."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return ""
    namespace = "{http://projectmallard.org/1.0/}"
    parts = []

    def visit(element):
        for child in element:
            tag = child.tag.replace(namespace, "") if isinstance(child.tag, str) else ""
            if tag in ("info", "media", "links"):
                continue
            if tag in ("title", "p", "td", "screen", "code", "cite", "desc"):
                text = re.sub(r"\s+", " ", "".join(child.itertext())).strip()
                if text:
                    parts.append(text)
            else:
                visit(child)

    visit(root)
    return "\n\n".join(parts)


def paragraphs(text):
    return [re.sub(r"\s+", " ", part).strip()
            for part in re.split(r"\n\s*\n", text) if part.strip()]


def without(text, known):
    """Without the paragraphs that stand word for word in the set `known`."""
    kept = []
    for part in re.split(r"\n\s*\n", text):
        is_known = len(part.strip()) > 25 and re.sub(r"\s+", " ", part).strip() in known
        if not is_known:
            kept.append(part)
    return "\n\n".join(kept)


def chapters(text, heading):
    """Cut before every match of the pattern `heading`."""
    cuts = [match.start() for match in re.finditer(heading, text, flags=re.M)]
    if not cuts:
        return [text]
    return [text[a:b] for a, b in zip([0] + cuts, cuts + [len(text)]) if text[a:b].strip()]
