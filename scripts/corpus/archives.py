"""Texts inside binary formats: SWORD modules, R's lazy-load databases, dictd dictionaries."""

import gzip
import html
import os
import re
import struct
import zlib


def sword_segments(folder):
    """(block, segments) of a compressed SWORD module (zText, zCom), in order."""
    for testament in ("ot", "nt"):
        for kind in "bc":
            base = f"{folder}/{testament}.{kind}z"
            if not os.path.exists(base + "s"):
                continue
            index, packed, verses = (open(base + end, "rb").read() for end in "szv")
            blocks = {}
            unpacked = {}
            for block, start, length in _sword_verses(verses, len(index) // 12):
                if block not in unpacked:
                    offset, size, _ = struct.unpack_from("<III", index, 12 * block)
                    try:
                        unpacked[block] = zlib.decompress(packed[offset:offset + size])
                    except zlib.error:
                        unpacked[block] = b""
                segment = unpacked[block][start:start + length].decode("utf-8", "replace")
                segments = blocks.setdefault(block, [])
                if not segments or segments[-1] != segment:
                    segments.append(segment)
            for block in sorted(blocks):
                yield f"{testament}{block}", blocks[block]


def _sword_verses(verses, num_blocks):
    """Entries of 10 or 12 bytes: whichever names blocks that there are."""
    entries = []
    for width, layout in ((10, "<IIH"), (12, "<III")):
        if len(verses) % width:
            continue
        entries = []
        is_sound = True
        for offset in range(0, len(verses), width):
            block, start, length = struct.unpack_from(layout, verses, offset)
            if length and block >= num_blocks:
                is_sound = False
                break
            if length:
                entries.append((block, start, length))
        if is_sound:
            break
    return entries


def osis_text(source):
    """OSIS or ThML markup to text."""
    source = re.sub(r"<note\b.*?</note>", "", source, flags=re.S)
    source = re.sub(r"<title\b[^>]*>(.*?)</title>", r"\n\n\1\n\n", source, flags=re.S)
    source = re.sub(
        r"</?(p|lg|div|chapter|br|lb|item|list|h\d|milestone type=\"x-p\")\b[^>]*>", "\n\n", source)
    source = re.sub(r"</?l\b[^>]*>", "\n", source)
    return html.unescape(re.sub(r"<[^>]+>", "", source))


def r_objects(path):
    """The serialised objects of an .rdb file."""
    data = open(path, "rb").read()
    position = 0
    while position + 4 < len(data):
        decompressor = zlib.decompressobj()
        try:
            unpacked = decompressor.decompress(data[position + 4:])
        except zlib.error:
            return
        position = len(data) - len(decompressor.unused_data)
        yield unpacked


def r_strings(serialised):
    """The longest character vector (of 100 strings or more) in a serialised R object."""
    string_type = 9
    best = []
    for match in re.finditer(rb"\x00\x00[\x00-\x04]\x10", serialised):
        (count,) = struct.unpack_from(">i", serialised, match.start() + 4)
        position = match.start() + 8
        if count < 100 or count > 10**6:
            continue
        strings = []
        try:
            for _ in range(count):
                flags, length = struct.unpack_from(">Ii", serialised, position)
                if flags & 0xFF != string_type:
                    raise ValueError
                position += 8
                if length < 0:
                    strings.append("")
                    continue
                encoding = "latin-1" if flags & 0x4000 else "utf-8"
                strings.append(serialised[position:position + length].decode(encoding, "replace"))
                position += length
        except (struct.error, ValueError):
            continue
        if len(strings) > len(best):
            best = strings
    return best


def dictd_entries(base):
    """The entries of base.dict.dz, in the order of the file."""
    body = gzip.open(base + ".dict.dz").read()
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    value_of = {digit: value for value, digit in enumerate(digits)}

    def number(text):
        value = 0
        for digit in text:
            value = value * 64 + value_of[digit]
        return value

    places = set()
    for line in open(base + ".index", "rb").read().decode("utf-8", "replace").split("\n"):
        parts = line.split("\t")
        if len(parts) >= 3 and not parts[0].startswith("00"):
            places.add((number(parts[1]), number(parts[2])))
    return [body[offset:offset + length].decode("utf-8", "replace").strip()
            for offset, length in sorted(places)]
