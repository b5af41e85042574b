"""Tokenizers of other libraries, trained on a little text, and texts that are hard to get right. For
each a folder in "tokenizers"; the test of sluice adds its own, and what it makes of the texts, before
check_tokenizers.py compares."""

import io
import json

TEXT = """\
To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and
arrows of outrageous fortune, or to take arms against a sea of troubles. Caf\u00e9, na\u00efve, \u00fcber, \u65e5\u672c\u8a9e\u3068\u65e5\u672c.
    def tokens(text):\n        return [text[i:i + 2] for i in range(0, len(text), 2)]  # 1234567890

It isn't that we'll go; they've gone, I'm told.   Three  spaces   and\ttabs\t\there. ====== ------
"""

STRINGS = [
    "to be or not to be", " leading", "trailing ", "two  spaces   and three", " ", "  ", "        ",
    "\n", "\n\n\n", " \n \n ", "a\r\nb\rc\n", "\t\ttabs\t", "don't we'll I'D they'Ve it's 's",
    "caf\u00e9 cafe\u0301 na\u00efve \u00fcber", "\u00a0no\u00a0break\u3000wide", "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8\u3068\u4e2d\u6587",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \u2603\ufe0f", "\ufb01 \u2460 \u212b \u1e9b\u0323", "1234567890 3.14159 1,000",
    "a" * 50, " " * 40, "=-" * 30, "ab" * 33 + "a", "\ufeffmark", "zero\u200bwidth\u2060joiner",
    "x\u0300\u0301\u0302y", "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940 \u0639\u0631\u0628\u064a \u05e2\u05d1\u05e8\u05d9\u05ea",
    "if (a==b) {\n\treturn x->y;\n}\n", "end\n", "...!!!???  ,;:", "CamelCaseAndMORE_under_scores",
    "<|endoftext|> </s><s><unk> <0x0A> <pad>", "nul\0inside", "\u0378\U0010fffd", "'", "''",
    "question:\n\n  whether\n   'tis\n", TEXT,
]


def byte_level(folder, pieces):
    """With the pre-tokenizer and the normal form that are given."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if pieces == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
        from tokenizers import Regex

        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))


def sentence_pieces(folder, **options):
    import sentencepiece

    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, hard_vocab_limit=False,
        minloglevel=3, num_threads=1, **options)
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def main(program, report, _):
    folder = program.folder / "tokenizers"
    with report.check("tokenizers of byte-level byte pairs"):
        byte_level(folder / "gpt2", "gpt2")
        byte_level(folder / "qwen2", "qwen2")
    with report.check("SentencePiece models"):
        as_llama = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                    "byte_fallback": True, "character_coverage": 0.98}
        sentence_pieces(folder / "llama", model_type="bpe", vocab_size=420, **as_llama)
        sentence_pieces(folder / "llama-unigram", model_type="unigram", vocab_size=360, **as_llama)
        sentence_pieces(folder / "user-pieces", model_type="bpe", vocab_size=430,
                        user_defined_symbols=["<sep>", "return"], **as_llama)
        sentence_pieces(folder / "normalising", model_type="unigram", vocab_size=140)
    (folder / "strings.json").write_text(json.dumps(STRINGS))
