"""Manual pages (man and mdoc macros) to plain text."""

import re

_ESCAPES = {
    "-": "-", "'": "'", "`": "`", "e": "\\", "&": "", "|": "", "^": "", "/": "", ",": "", ":": "",
    "%": "", " ": " ", "~": " ", "0": " ", "t": "\t", "c": "", "\n": "",
}
_CHARACTERS = {
    "aq": "'", "dq": '"', "bu": "•", "em": "—", "en": "–", "hy": "-", "lq": "“", "rq": "”",
    "oq": "‘", "cq": "’", "co": "©", "rg": "®", "ti": "~", "ha": "^", "rs": "\\", "mu": "×",
    "+-": "±", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "!=": "≠", "Po": "£", "Eu": "€",
    "de": "°", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü", ":A": "Ä", ":O": "Ö", ":U": "Ü",
    "'e": "é", "`e": "è", "at": "@", "sh": "#", "Do": "$", "or": "|", "ba": "|", "ga": "`",
    "aa": "´", "lB": "[", "rB": "]", "lC": "{", "rC": "}", "la": "<", "ra": ">", "fo": "‹",
    "fc": "›", "Fo": "«", "Fc": "»", "sc": "§", "dg": "†", "tm": "™", "mc": "µ", "*m": "μ",
}
_STRINGS = {"(lq": "“", "(rq": "”", "(Aq": "'", "R": "®", "(Tm": "™"}
_MDOC = set(
    "Nm Fl Ar Op Pa Xr Dv Ev Ic Li Cm Va Vt Fa Fn Ft Fd In Em Sy Dq Sq Qq Pq Bq Aq Ql Tn Ux At Bx "
    "Nx Fx Ox No Ns Oo Oc Po Pc Ao Ac So Sc Do Dc Er An Nd It St Lb Ad Mt Lk Ex Rv Ta Bc Bo Brq Cd "
    "Dl D1 Ms".split())
_HEADINGS = {"SH", "Sh", "SS", "Ss"}
_BREAKS = {"PP", "P", "LP", "Pp", "Lp", "sp", "br", "HP", "IP", "TP", "TQ", "RS", "RE", "It", "nf",
           "fi", "EX", "EE", "Bd", "Ed", "in", "Bl", "El", "UR", "MT"}
_PARAGRAPHS = {"PP", "P", "LP", "Pp", "Lp", "sp", "TP", "IP", "It", "HP"}
_FONTS = {"B", "I", "R", "SM", "SB"}
_ALTERNATING_FONTS = {"BR", "RB", "BI", "IB", "IR", "RI"}
_SKIPPED_UNTIL = {"TS": ".TE", "EQ": ".EN"}


def _plain(text):
    """Without escapes."""
    text = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\s[-+]?\d", "", text)
    text = re.sub(r"\\[mMFgkn](\[[^\]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\[hvwlL]'[^']*'", "", text)
    text = re.sub(r"\\\((..)", lambda m: _CHARACTERS.get(m.group(1), ""), text)
    text = re.sub(r"\\\[u([0-9A-Fa-f]{4,6})\]", lambda m: chr(int(m.group(1), 16)), text)
    text = re.sub(r"\\\[([^\]]*)\]", lambda m: _CHARACTERS.get(m.group(1), ""), text)
    text = re.sub(r"\\\*(\[[^\]]*\]|\(..|.)", lambda m: _STRINGS.get(m.group(1), ""), text)
    text = re.sub(r'\\["#].*$', "", text)
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m.group(1), m.group(1)), text)


def _arguments(text):
    words = []
    for word in re.findall(r'"(?:[^"]|"")*"|\S+', text):
        is_quoted = word.startswith('"') and word.endswith('"') and len(word) > 1
        words.append(word[1:-1].replace('""', '"') if is_quoted else word.strip('"'))
    return words


class _Page:
    def __init__(self):
        self.lines = []
        self.words = []  # of the paragraph that is being filled
        self.is_literal = False
        self.is_tag = False  # the next line is the tag of a list item
        self.name = ""

    def flush(self):
        if self.words:
            self.lines.append(" ".join(self.words))
            self.words.clear()

    def end_tag(self):
        if self.is_tag:
            self.flush()
            self.is_tag = False

    def text(self, line):
        line = _plain(line)
        if self.is_literal:
            self.lines.append(line)
        elif not line.strip():
            self.flush()
            self.lines.append("")
        else:
            self.words.append(line.strip())
            self.end_tag()

    def heading(self, rest):
        self.flush()
        self.lines.append("\n" + _plain(" ".join(_arguments(rest))) + "\n")
        self.is_tag = False

    def line_break(self, macro, rest):
        if macro in ("nf", "EX"):
            self.flush()
            self.lines.append("")
            self.is_literal = True
            return
        if macro in ("fi", "EE"):
            self.is_literal = False
            self.lines.append("")
            return
        self.flush()
        if macro in _PARAGRAPHS and (not self.lines or self.lines[-1] != ""):
            self.lines.append("")
        if macro == "Bd" and "literal" in rest:
            self.is_literal = True
        if macro == "Ed":
            self.is_literal = False
        if macro == "IP" and rest:
            words = _arguments(rest)
            label = _plain(words[0]) if words else ""
            if label:
                self.words.append(label)
        if macro == "It":
            label = " ".join(w for w in map(_plain, _arguments(rest)) if w not in _MDOC)
            if label:
                self.words.append(label)
                self.flush()
        if macro == "TP":
            self.is_tag = True

    def inline(self, macro, rest):
        """The text of a macro within a paragraph; None for one that has no text."""
        words = [_plain(word) for word in _arguments(rest)]
        if macro in _FONTS:
            return " ".join(words)
        if macro in _ALTERNATING_FONTS:
            return "".join(words)
        if macro in _MDOC:
            if macro == "Nm" and not words:
                words = [self.name]
            return ("-" if macro == "Fl" else "") + " ".join(w for w in words if w not in _MDOC)
        if macro in ("UE", "ME"):
            return _plain(rest)
        return None

    def add_inline(self, text):
        if text.strip():
            if self.is_literal:
                self.lines.append(text)
            else:
                self.words.append(text.strip())
        self.end_tag()


def roff_text(source):
    page = _Page()
    skip_until = None
    lines = iter(source.split("\n"))
    for line in lines:
        while line.endswith("\\") and not line.endswith("\\\\"):
            following = next(lines, None)
            if following is None:
                break
            line = line[:-1] + following
        if skip_until is not None:
            if line.startswith(skip_until):
                skip_until = None
            continue
        # Paragraphs are broken by macros; an empty line says nothing.
        if not line or line.startswith(("'\\\"", ".\\\"", "'''")):
            continue
        if line[:1] not in (".", "'"):
            page.text(line)
            continue
        match = re.match(r"[.']\s*(\S+)\s*(.*)", line)
        if not match:
            continue
        macro, rest = match.group(1), re.sub(r'\s*\\".*$', "", match.group(2))
        if macro in ("de", "ig", "am", "de1"):
            words = _arguments(rest)
            skip_until = "." + (words[1] if len(words) > 1 else ".")
        elif macro == "TH":
            page.name = " ".join(_plain(word) for word in _arguments(rest)[:2])
        elif macro in _HEADINGS:
            page.heading(rest)
        elif macro in _BREAKS:
            page.line_break(macro, rest)
        elif macro in _SKIPPED_UNTIL:
            skip_until = _SKIPPED_UNTIL[macro]
        else:
            text = page.inline(macro, rest)
            if text is not None:
                page.add_inline(text)
    page.flush()
    return "\n".join(page.lines)
