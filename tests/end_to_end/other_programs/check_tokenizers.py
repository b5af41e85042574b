"""The tokenizers of exported folders, by transformers, by the libraries that made them, and by
sluice (ours.json, an encoding of every string): one and the same ids."""

import json

from common import expect

SPACE = "\u2581"
# Made by sluice: their texts may hold U+2581, which is a space to the other programs.
OURS = ("sluice-bpe", "sluice-unigram")
# The library's unigram models find a special piece where a text holds its name and a character of that
# is unknown, whatever they are told.
UNIGRAM = ("sluice-unigram", "llama-unigram", "normalising")


def encode(tokenizer, text):
    """Names of special tokens are text, as they are in sluice."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def original_encoder(folder):
    if (folder / "tokenizer.model").exists():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(
            model_proto=(folder / "tokenizer.model").read_bytes())
        return processor.encode
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def compare(name, encoder, strings, ours):
    different = []
    for text, expected in zip(strings, ours):
        if name in OURS and SPACE in text:
            continue
        found = list(encoder(text))
        if found != expected:
            different.append(f"{text[:30]!r}: {found[:12]}, sluice has {expected[:12]}")
    expect(not different,
           f"{len(different)} of {len(strings)} texts become other ids: {'; '.join(different[:4])}")


def main(program, report, _):
    import transformers

    folder = program.folder / "tokenizers"
    for made in sorted(path for path in folder.iterdir() if path.is_dir()):
        strings = json.loads((folder / "strings.json").read_text())
        ours = json.loads((made / "ours.json").read_text())
        name = made.name
        if name not in OURS:
            with report.check(f"{name}: the library that made it finds the same ids"):
                compare(name, original_encoder(made), strings, ours)
        if name in UNIGRAM:
            kept = [i for i, text in enumerate(strings) if "</s>" not in text]
            strings, ours = [strings[i] for i in kept], [ours[i] for i in kept]
        for model in sorted(made.glob("model-*")):
            with report.check(f"{name}, in a folder of {model.name[6:]}: so does transformers"):
                tokenizer = transformers.AutoTokenizer.from_pretrained(model)
                compare(name, lambda text: encode(tokenizer, text), strings, ours)
                config = json.loads((model / "config.json").read_text())
                expect(tokenizer.eos_token_id == config["eos_token_id"],
                       f"it ends in {tokenizer.eos_token_id}, the model in "
                       f"{config['eos_token_id']}")
                expect(len(tokenizer) <= config["vocab_size"], "it grew beyond the model")
                if name in (*OURS, "gpt2"):
                    for text, ids in zip(strings, ours):
                        expect(SPACE in text or tokenizer.decode(ids) == text,
                               f"{text[:30]!r} comes back changed")
