"""Turns unpacked packages into one text file per domain: make_corpus.py PACKAGES OUT --tier TIER [--domains A,B].

Uses the standard library only; the output depends on nothing but the bytes of the packages.
"""

import argparse
import hashlib
import os
import re

from clean import END_OF_DOCUMENT, clean
from domains import DOMAINS, MEBIBYTE, Packages, digest

QUICK_DOMAINS = ["prose", "code", "math", "multi", "reference"]
QUICK_BYTES = 0.8 * MEBIBYTE  # of each domain
# Share of a domain's groups that is held out; and groups that always are: Persuasion, the Spanish Acts and Proverbs.
HELD_OUT = {"dialogue": 0.05, "manual": 0.03}
HELD_OUT_OTHERWISE = 0.02
HELD_OUT_QUICK = 0.06
ALWAYS_HELD_OUT = {"austen:PERSUASION", "sparv:nt5", "sparv:ot20"}


def quick_selection(documents):
    """Pieces of about 12 kB in the order of a hash until the domain is full; sources share by the root of their size."""
    pieces_of = {}
    for source, group, name, text in documents:
        pieces = []
        piece = ""
        for part in re.split(r"(\n+)", text):
            if len(piece) + len(part) > 12000 and len(piece) > 2000 and part.strip():
                pieces.append(piece)
                piece = ""
            piece += part
        if piece.strip():
            pieces.append(piece)
        for i, piece in enumerate(pieces):
            piece = piece.strip()
            if 300 <= len(piece) <= 40000:
                pieces_of.setdefault(source, []).append((source, group, f"{name}#{i}", piece))
    weights = {source: sum(len(piece[3]) for piece in pieces) ** 0.5 for source, pieces in pieces_of.items()}
    for source in sorted(pieces_of):
        share = QUICK_BYTES * weights[source] / sum(weights.values())
        size = 0
        picked = []
        for piece in sorted(pieces_of[source], key=lambda piece: digest(piece[2])):
            length = len(piece[3].encode())
            if size + length <= share:
                size += length
                picked.append(piece)
        yield from sorted(picked, key=lambda piece: piece[2])


class DomainFiles:
    """OUT/train/DOMAIN.txt and OUT/heldout/DOMAIN.txt while they are written."""

    SPLITS = ("train", "heldout")

    def __init__(self, out, domain):
        self.files = {split: open(f"{out}/{split}/{domain}.txt", "wb") for split in self.SPLITS}
        self.hashes = {split: hashlib.sha256() for split in self.SPLITS}
        self.bytes = dict.fromkeys(self.SPLITS, 0)
        self.documents = dict.fromkeys(self.SPLITS, 0)
        self.sources = {}  # source -> [train documents, train bytes, held-out ..., ..., duplicates]

    def counts_of(self, source):
        return self.sources.setdefault(source, [0, 0, 0, 0, 0])

    def put(self, split, source, text):
        document = (text + "\n" + END_OF_DOCUMENT + "\n").encode("utf-8", "ignore")
        self.files[split].write(document)
        self.hashes[split].update(document)
        self.bytes[split] += len(document)
        self.documents[split] += 1
        counts = self.counts_of(source)
        first = 2 * self.SPLITS.index(split)
        counts[first] += 1
        counts[first + 1] += len(document)

    def close(self):
        for file in self.files.values():
            file.close()


def fingerprint(text):
    return hashlib.blake2b(text.strip().encode("utf-8", "ignore"), digest_size=8).digest()


def write_domain(files, domain, documents, seen, tier):
    known = set()  # long paragraphs of the training text
    held_out = []
    share = HELD_OUT_QUICK if tier == "quick" else HELD_OUT.get(domain, HELD_OUT_OTHERWISE)
    for source, group, _, text in documents:
        if len(text) < 200:
            continue
        key = hashlib.sha256(re.sub(r"\W+", " ", text).encode("utf-8", "ignore")).digest()
        if key in seen:
            files.counts_of(source)[4] += 1
            continue
        seen.add(key)
        if int(digest("sluice-heldout|" + group)[:8], 16) / 2**32 < share or group in ALWAYS_HELD_OUT:
            held_out.append((source, text))
            continue
        if domain != "code":
            known.update(fingerprint(part) for part in text.split("\n\n") if len(part) >= 80)
        files.put("train", source, text)
    for source, text in held_out:
        # What stands word for word in the training text is taken out, but of code.
        if domain != "code":
            kept = [part for part in text.split("\n\n") if len(part) < 80 or fingerprint(part) not in known]
            text = "\n\n".join(kept).strip()
        if len(text) >= 200:
            files.put("heldout", source, text)


def write_table(path, header, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in [header] + rows:
            file.write("\t".join(map(str, row)) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("packages")
    parser.add_argument("out")
    parser.add_argument("--tier", choices=["quick", "full"], default="full")
    parser.add_argument("--domains", default="")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.domains.split(",") if name]
    wanted = wanted or (QUICK_DOMAINS if arguments.tier == "quick" else list(DOMAINS))
    unknown = [name for name in wanted if name not in DOMAINS]
    if unknown:
        parser.error(f"--domains: found {', '.join(unknown)}, allowed {', '.join(DOMAINS)}")
    for split in DomainFiles.SPLITS:
        os.makedirs(f"{arguments.out}/{split}", exist_ok=True)
    packages = Packages(arguments.packages)
    seen = set()  # documents, whatever their domain
    sources, manifest = [], []
    for domain, documents_of in DOMAINS.items():
        if domain not in wanted:
            continue
        documents = ((source, group, name, clean(text, is_code=domain == "code"))
                     for source, group, name, text in documents_of(packages))
        if arguments.tier == "quick":
            documents = quick_selection(documents)
        files = DomainFiles(arguments.out, domain)
        write_domain(files, domain, documents, seen, arguments.tier)
        files.close()
        sources += [(domain, source, *counts) for source, counts in sorted(files.sources.items())]
        for split in DomainFiles.SPLITS:
            manifest.append((domain, split, files.documents[split], files.bytes[split],
                             files.hashes[split].hexdigest()))
        print(f"{domain:10s} train {files.documents['train']:6d} documents {files.bytes['train']:11d} bytes   "
              f"held out {files.documents['heldout']:5d} documents {files.bytes['heldout']:9d} bytes", flush=True)
    write_table(arguments.out + "/SOURCES.tsv", ("domain", "source", "train_docs", "train_bytes", "heldout_docs",
                                                 "heldout_bytes", "duplicates_dropped"), sources)
    write_table(arguments.out + "/MANIFEST.tsv", ("domain", "split", "docs", "bytes", "sha256"), manifest)


if __name__ == "__main__":
    main()
