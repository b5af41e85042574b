"""The documents of each domain.

Every generator yields (source, group, document, text). The documents of a group (a book, a folder of source code, a
manual page in all its languages) are held out together or not at all.
"""

import glob
import gzip
import hashlib
import os
import re

from archives import dictd_entries, osis_text, r_objects, r_strings, sword_segments
from clean import chapters, html_text, mallard_text, paragraphs, without
from roff import roff_text

MEBIBYTE = 1 << 20
MANUAL_LANGUAGES = ["de", "fr", "es", "ru", "pl", "ja", "zh"]
GNOME_LANGUAGES = ["de", "es", "fr", "pt_BR", "ru", "pl", "cs", "sv", "hu", "uk", "ko", "ca", "el", "nl", "id"]
REFERENCE_LANGUAGES = ["de", "fr", "es", "it", "pt", "ja", "zh-cn"]
HANDBOOK_LANGUAGES = ["de-DE", "fr-FR", "es-ES", "it-IT", "pt-BR", "ru-RU", "pl-PL", "ja-JP", "zh-CN"]


def digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read(path, encoding="utf-8"):
    opener = gzip.open if path.endswith((".gz", ".dz")) else open
    with opener(path, "rb") as file:
        return file.read().decode(encoding, "replace")


def files_below(root, suffix):
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(suffix) and not os.path.islink(path):
                found.append(path)
    return sorted(found)


def by_digest(files, root):
    """An order that depends on the names only, for a choice of some."""
    return sorted(files, key=lambda path: digest(os.path.relpath(path, root)))


class Packages:
    """The unpacked packages, by name."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, package, *rest):
        return os.path.join(self.folder, package, *rest)

    def has(self, package):
        return os.path.isdir(self.path(package))


# --- prose ---


def prose(packages):
    if packages.has("r-cran-janeaustenr"):
        yield from _austen(packages.path(
            "r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"))
    modules = "usr/share/sword/modules"
    for key, segments in sword_segments(packages.path("sword-text-web", modules, "texts/ztext/engWEB2015eb")):
        text = " ".join(osis_text(s).strip() if "<p" not in s else osis_text(s) for s in segments)
        text = re.sub(r" *\n *", "\n", re.sub(r"[ \t]+", " ", text))
        yield "web-bible", "web:" + key, "web:" + key, text
    for key, segments in sword_segments(packages.path("sword-comm-mhcc", modules, "comments/zcom/mhcc")):
        for i, segment in enumerate(segments):
            yield "mhcc", f"mhcc:{key}:{i // 4}", f"mhcc:{key}:{i}", osis_text(segment)
    for key, segments in sword_segments(packages.path("sword-comm-tdavid", modules, "comments/zcom/tdavid")):
        yield "tdavid", f"tdavid:{key}", f"tdavid:{key}", "\n\n".join(map(osis_text, segments))
    for path in files_below(packages.path("cfi-en", "usr/share/doc/cfi-en/html"), ".htm"):
        name = os.path.basename(path)
        yield "cfi-en", "cfi:" + name, name, html_text(read(path, "latin-1"))


def _austen(database):
    for serialised in r_objects(database):
        lines = r_strings(serialised)
        if not lines:
            continue
        title = next((line.strip() for line in lines if line.strip()), "")[:40].upper()
        for i, chapter in enumerate(chapters("\n".join(lines), r"^(CHAPTER|Chapter) [0-9IVXLC]+")):
            yield "janeaustenr", "austen:" + title, f"{title}:{i}", chapter


# --- code ---


def _is_written_code(text):
    """By people, and mostly words."""
    if not 400 <= len(text) <= 200_000:
        return False
    if "Code generated" in text[:2000] or "DO NOT EDIT" in text[:2000]:
        return False
    if max(map(len, text.split("\n"))) > 400:
        return False
    letters = sum(c.isalpha() or c == " " for c in text) / len(text)
    digits = sum(c.isdigit() for c in text) / len(text)
    return letters > 0.5 and digits < 0.12


def code(packages):
    rust = "usr/src/rustc-1.63.0"
    specifications = [  # source, folder, suffix, what is left out, MiB at most
        ("go", packages.path("golang-1.19-src", "usr/share/go-1.19/src"), ".go", r"/(testdata|vendor)/", 16),
        ("rust-library", packages.path("rust-src", rust, "library"), ".rs",
         r"/(stdarch|portable-simd|vendor)/|/benches/", 8),
        ("rust-compiler", packages.path("rust-src", rust, "compiler"), ".rs",
         r"/(vendor|rustc_codegen_gcc|rustc_codegen_cranelift)/", 8),
        ("boost-c++", packages.path("libboost1.74-dev", "usr/include/boost"), ".hpp",
         r"/preprocessed/|/aux_/|/preprocessor/|/detail/generated|/typeof/|/vector/vector\d+|/repetition", 16),
        ("sympy-python", packages.path("python3-sympy", "usr/lib/python3/dist-packages/sympy"), ".py",
         r"/rubi/|/_antlr/|/benchmarks/", 12),
    ]
    for source, root, suffix, left_out, limit in specifications:
        files = [path for path in files_below(root, suffix) if not re.search(left_out, path)]
        size = 0
        picked = []
        for path in by_digest(files, root):
            text = read(path)
            if not _is_written_code(text):
                continue
            length = len(text.encode())
            if size + length > limit * MEBIBYTE:
                continue
            size += length
            picked.append((path, text))
        for path, text in sorted(picked):
            name = os.path.relpath(path, root)
            yield source, f"{source}:{os.path.dirname(name)}", f"{source}:{name}", text


# --- mathematics ---


def math(packages):
    if packages.has("metamath-databases"):
        for database in ("set.mm", "iset.mm", "nf.mm", "ql.mm"):
            text = read(packages.path("metamath-databases", "usr/share/metamath/databases", database))
            for i, document in enumerate(_metamath_documents(text)):
                yield f"metamath-{database}", f"{database}:{i}", f"{database}:{i}", document
    root = packages.path("hol-light", "usr/share/hol-light")
    left_out = r"_database\.ml$|/pa_j|/Formal_ineqs/|/Minisat/|/Proofrecording/|/Cadical/"
    files = [path for path in files_below(root, ".ml") if not re.search(left_out, path)]
    size = 0
    for path in by_digest(files, root):
        text = read(path)
        length = len(text)
        if length < 500 or size + length > 16 * MEBIBYTE:
            continue
        letters = sum(c.isalpha() or c == " " for c in text) / length
        if letters < 0.45 or max(map(len, text.split("\n"))) > 600:
            continue
        size += length
        name = os.path.relpath(path, root)
        yield "hol-light", "hol:" + name, "hol:" + name, text


def _metamath_documents(text):
    """Comments and statements, a document per section heading or 20 kB."""
    statement = r"\$\(\s(.*?)\s\$\)|(\S+)\s+\$([ape])\s+(.*?)\s\$\."
    parts = []
    size = 0
    for match in re.finditer(statement, text, flags=re.S):
        comment, label, kind, body = match.groups()
        if comment is not None:
            if re.search(r"(=-=-|#\*#\*|-\.-\.|_-_-)", comment):
                if parts:
                    yield "\n\n".join(parts)
                heading = re.sub(r"^[ ]+", "", re.sub(r"[#*=\-._]{8,}", "", comment), flags=re.M)
                parts, size = [re.sub(r"\n{2,}", "\n\n", heading).strip()], 0
            elif not re.match(r"\s*(\$t|\$j|Kind of)", comment):
                comment = re.sub(r"\n\s*\n", "\x00", comment)
                comment = re.sub(r"\s+", " ", comment).replace("\x00", "\n")
                parts.append(comment)
                size += len(comment)
            continue
        line = _metamath_statement(label, kind, body)
        if parts:
            parts[-1] += "\n" + line
        else:
            parts.append(line)
        size += len(line)
        if size > 20000:
            yield "\n\n".join(parts)
            parts, size = [], 0
    if parts:
        yield "\n\n".join(parts)


def _metamath_statement(label, kind, body):
    claim, _, proof = body.partition("$=")
    claim = re.sub(r"\s+", " ", claim).strip()
    kinds = {"a": "axiom" if claim.startswith("|-") else "syntax", "e": "hypothesis", "p": "theorem"}
    line = f"{kinds[kind]} {label}: {claim}"
    if kind == "p":
        used = re.match(r"\s*\((.*?)\)", proof, flags=re.S)
        if used and used.group(1).split():
            line += "\n  proof uses: " + " ".join(used.group(1).split())
    return line


# --- several languages, and manuals ---


def _manual_pages(root, source, language):
    for path in files_below(root, ".gz"):
        if not re.search(r"/man[1-9][^/]*/", path) or (language == "zh" and "/zh_TW" in path):
            continue
        page = gzip.open(path).read()
        if page.startswith(b".so "):
            continue
        try:
            text = page.decode("utf-8")
        except UnicodeDecodeError:
            continue
        name = os.path.basename(path)[:-3]
        yield source, "man:" + name, f"{source}:{name}", name.rsplit(".", 1)[0] + "\n\n" + roff_text(text)


def _reference_files(packages, language):
    root = packages.path(f"debian-reference-{language}", "usr/share/debian-reference")
    return [path for path in files_below(root, ".html") if re.search(r"/(ch|pr|apa)\d*\.", path)]


def _reference_sections(packages, language):
    for path in _reference_files(packages, language):
        name = os.path.basename(path).split(".")[0]
        for i, section in enumerate(chapters(html_text(read(path)), r"^\d+\.\d+\. ")):
            yield name, i, section


def multi(packages):
    for language in MANUAL_LANGUAGES:
        package = f"manpages-{language}"
        yield from _manual_pages(packages.path(package, "usr/share/man"), package, language)
    yield from _gnome_translations(packages.path("gnome-user-docs", "usr/share/help"))
    english = set()
    for path in _reference_files(packages, "en"):
        english.update(paragraphs(html_text(read(path))))
    for language in REFERENCE_LANGUAGES:
        for name, i, section in _reference_sections(packages, language):
            yield (f"debian-reference-{language}", f"dref:{name}:{i}", f"dref:{language}:{name}:{i}",
                   without(section, english))
    yield from _handbook_translations(packages.path("debian-handbook", "usr/share/doc/debian-handbook/html"))
    found = glob.glob(packages.path("sword-text-sparv", "usr/share/sword/modules/texts/*/*/ot.?zs"))
    for key, segments in sword_segments(os.path.dirname(found[0])) if found else ():
        text = "\n".join(re.sub(r"\s+", " ", osis_text(segment)).strip() for segment in segments)
        yield "biblia-rv-es", "sparv:" + key, "sparv:" + key, text


def _gnome_translations(root):
    english = set()
    for path in files_below(root + "/C", ".page"):
        english.update(paragraphs(mallard_text(path)))
    for language in GNOME_LANGUAGES:
        for path in files_below(f"{root}/{language}", ".page"):
            name = os.path.relpath(path, f"{root}/{language}")
            yield (f"gnome-help-{language}", "gnome:" + name, f"gnome:{language}:{name}",
                   without(mallard_text(path), english))


def _handbook_translations(root):
    english = set()
    for path in files_below(root + "/en-US", ".html"):
        english.update(paragraphs(html_text(read(path))))
    for language in HANDBOOK_LANGUAGES:
        for path in files_below(f"{root}/{language}", ".html"):
            name = os.path.basename(path)
            yield (f"debian-handbook-{language}", "hb:" + name, f"hb:{language}:{name}",
                   without(html_text(read(path)), english))


def manual(packages):
    for package in ("manpages", "manpages-dev"):
        yield from _manual_pages(packages.path(package, "usr/share/man"), package + "-en", "en")
    documentation = packages.path("cmake-doc", "usr/share/doc")
    for path in files_below(documentation, ".rst.txt") + files_below(documentation, ".txt"):
        if "_sources" in path:
            name = "cmake:" + os.path.basename(path)
            yield "cmake-doc", name, name, read(path)
    for path in files_below(packages.path("python-pandas-doc", "usr/share/doc"), ".txt"):
        if "_sources" in path and "/reference/api/" not in path:
            yield ("pandas-doc", "pandas:" + os.path.basename(path), "pandas:" + path.split("_sources")[1],
                   read(path))
    for path in files_below(packages.path("debian-policy", "usr/share/doc/debian-policy"), ".html"):
        if re.search(r"policy\.html/(ch|ap)-", path):
            name = "pol:" + os.path.basename(path)
            yield "debian-policy", name, name, html_text(read(path))
    for name, i, section in _reference_sections(packages, "en"):
        yield "debian-reference-en", f"dref:{name}:{i}", f"dref:en:{name}:{i}", section
    for path in files_below(packages.path("debian-handbook", "usr/share/doc/debian-handbook/html/en-US"), ".html"):
        name = os.path.basename(path)
        yield "debian-handbook-en", "hb:" + name, "hb:en:" + name, html_text(read(path))
    root = packages.path("gnome-user-docs", "usr/share/help/C")
    for path in files_below(root, ".page"):
        name = os.path.relpath(path, root)
        yield "gnome-help-en", "gnome:" + name, "gnome:C:" + name, mallard_text(path)
    for path in files_below(packages.path("c++-annotations-html", "usr/share/doc"), ".html"):
        name = "cpa:" + os.path.basename(path)
        yield "c++-annotations", name, name, html_text(read(path, "latin-1"))
    yield from _boost_documentation(packages.path("libboost1.74-doc", "usr/share/doc/libboost1.74-doc"))


def _boost_documentation(root):
    left_out = (r"(^|/)(header|class|struct|reference|BOOST_|id\d+|index|[a-z_]*ref(erence)?/)"
                r"|/reference/|/headers/|license|release_notes|history")
    files = [path for path in files_below(root, ".html")
             if not re.search(left_out, os.path.relpath(path, root))]
    size = 0
    for path in by_digest(files, root):
        text = html_text(read(path))
        if len(text) < 1500 or size + len(text) > 14 * MEBIBYTE:
            continue
        size += len(text)
        name = "bd:" + os.path.relpath(path, root)
        yield "boost-doc", name, name, text


# --- works of reference ---


def _dictionary(packages, package, name, entries_per_document):
    if not packages.has(package):
        return
    entries = dictd_entries(packages.path(package, "usr/share/dictd", name))
    for i in range(0, len(entries), entries_per_document):
        group = entries[i:i + entries_per_document]
        text = "\n\n".join(re.sub(r"\n[ ]{2,}", "\n ", entry) for entry in group)
        yield name, f"{name}:{i}", f"{name}:{i}", text


def reference(packages):
    yield from _dictionary(packages, "dict-gcide", "gcide", 40)
    yield from _dictionary(packages, "dict-foldoc", "foldoc", 20)
    yield from _dictionary(packages, "dict-jargon", "jargon", 20)
    yield from _dictionary(packages, "dict-devil", "devil", 40)
    if packages.has("wordnet-base"):
        for part in ("noun", "verb", "adj", "adv"):
            lines = _wordnet_lines(read(packages.path("wordnet-base", "usr/share/wordnet", f"data.{part}")))
            for i in range(0, len(lines), 40):
                yield "wordnet", f"wn:{part}:{i}", f"wn:{part}:{i}", "\n".join(lines[i:i + 40])


def _wordnet_lines(text):
    parts_of_speech = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
    lines = []
    for line in text.split("\n"):
        if not line or line.startswith("  ") or " | " not in line:
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        words = [re.sub(r"\(.*?\)$", "", fields[4 + 2 * i]).replace("_", " ")
                 for i in range(int(fields[3], 16))]
        lines.append(f"{', '.join(words)} ({parts_of_speech[fields[2]]}): {gloss.strip()}")
    return lines


# --- dialogue ---


def dialogue(packages):
    yield from _endless_sky(packages.path("endless-sky-data", "usr/share/games/endless-sky/data"))
    for campaign in ("did", "dm", "httt", "nr", "sotbe", "utbs"):
        for path in files_below(packages.path(f"wesnoth-1.16-{campaign}"), ".cfg"):
            text = _wesnoth_text(read(path))
            if len(text) > 600:
                name = f"wes:{campaign}:{os.path.basename(path)}"
                yield "wesnoth", name, name, text
    yield from _crawl(packages.path("crawl-common", "usr/share/crawl/dat"))
    yield from _fortunes(packages.path("fortunes", "usr/share/games/fortunes"))


def _endless_sky(root):
    for path in files_below(root, ".txt"):
        name = os.path.basename(path)
        for i, block in enumerate(re.split(r"\n(?=\S)", read(path))):
            lines = []
            choice_indent = None
            for line in block.split("\n"):
                indent = len(line) - len(line.lstrip("\t"))
                if choice_indent is not None and line.strip() and indent <= choice_indent:
                    choice_indent = None
                if line.strip() == "choice":
                    choice_indent = indent
                    continue
                match = re.match(r"\t*(?:[a-z ]*)`(.*)`", line)
                if match and len(match.group(1).strip()) > 1:
                    lines.append(("> " if choice_indent is not None else "") + match.group(1).strip())
            text = "\n".join(lines)
            heading = block.split("\n", 1)[0].strip()
            heading = re.sub(
                r"^(mission|planet|event|conversation|phrase|help|news)\s+", "", heading).strip('"`')
            if len(text) > 250:
                yield "endless-sky", f"es:{name}:{heading[:40]}", f"es:{name}:{i}", heading + "\n\n" + text


_WESNOTH_ENTRY = (
    r"^\s*(speaker|id|type|message|story|name|description|summary|note)\s*=\s*"
    r'((?:_\s*)?"(?:[^"]|"")*"(?:\s*\+\s*(?:_\s*)?"(?:[^"]|"")*")*|[^\n]*)|\[(message|part|event|unit)\]')


def _wesnoth_text(source):
    lines = []
    speaker = None
    for match in re.finditer(_WESNOTH_ENTRY, source, flags=re.M):
        key, value, section = match.groups()
        if section:
            if section != "message":
                speaker = None
            continue
        if key == "speaker":
            speaker = value.strip().strip('"')
            continue
        if "_" not in value[:3] or '"' not in value:
            continue
        text = " ".join(part.replace('""', '"') for part in re.findall(r'"((?:[^"]|"")*)"', value))
        text = re.sub(r"<[^>]+>", "", re.sub(r"\s+", " ", text).strip())
        if len(text) < 3:
            continue
        if key == "message":
            names = {"narrator": "Narrator", "unit": "Unit", "second_unit": "Second unit", None: "Voice"}
            lines.append(f"{names.get(speaker, speaker)}: {text}")
            speaker = None
        elif (key in ("story", "description") and len(text) > 60) or (key == "name" and not lines):
            lines.append(text)
    return "\n".join(lines)


def _crawl(root):
    made_of_names = {"randname.txt", "rand_wpn.txt", "rand_arm.txt", "rand_all.txt", "randbook.txt",
                     "monname.txt", "miscname.txt", "montitle.txt", "godname.txt"}
    for folder in ("database", "descript"):
        for path in sorted(glob.glob(os.path.join(root, folder, "*.txt"))):
            name = os.path.basename(path)
            if name in made_of_names:
                continue
            text = re.sub(r"^#.*\n?", "", read(path), flags=re.M)
            items = [item.strip() for item in text.split("%%%%") if len(item.strip()) > 40 and "{{" not in item]
            for i in range(0, len(items), 20):
                joined = "\n\n".join(items[i:i + 20])
                yield "crawl", f"crawl:{name}:{i}", f"crawl:{name}:{i}", re.sub(
                    r"^w:\d+\n", "", joined, flags=re.M)


def _fortunes(root):
    for path in files_below(root, ""):
        name = os.path.basename(path)
        if name.endswith((".dat", ".u8", ".gz")) or re.search(
                r"/off(ensive)?/|-o$|zote|nsfw|sex|limerick", path):
            continue
        raw = open(path, "rb").read()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1", "replace")
        text = text.replace("\x1b[0m", "")
        items = [item.strip("\n") for item in re.split(r"^%.*\n?", text, flags=re.M) if len(item.strip()) > 20]
        for i in range(0, len(items), 25):
            yield "fortunes", f"fortunes:{name}:{i}", f"fortunes:{name}:{i}", "\n\n".join(items[i:i + 25])


DOMAINS = {"prose": prose, "code": code, "math": math, "multi": multi, "manual": manual,
           "reference": reference, "dialogue": dialogue}
