"""Folders that `sluice export` writes, in transformers: every weight in place, the same logits."""

import json
import shutil

from common import (expect, expect_close, load_in_transformers, logits_in_transformers,
                    passes_over)

# f32 against f32, summed in another order.
RELATIVE = 1e-4
IDS = [5, 99, 250, 7, 7, 31, 128, 0, 64, 200, 13, 13, 255, 90, 41, 6, 177, 178, 3, 2]
TEXT = "to be, or not: \u00e9t\u00e9 \u2581 \U0001f600\r\n\tx  y"
BEFORE_5 = {
    "DeepseekV2": "leaves out how yarn scales the scores",
    "Mamba2": "normalises the channels of all groups together",
}
WAYS = {
    "f32": [],
    "in parts": ["--max-file", "4 KiB"],
    "bf16": ["--dtype", "bf16"],
    "f16": ["--dtype", "f16"],
}


def check_folder(folder, expected):
    model = load_in_transformers(folder)
    difference = expect_close(logits_in_transformers(model, IDS), expected, RELATIVE, "logits")
    return model, difference


def check_beside(folder, model):
    """The tokenizer, and where generation ends."""
    import torch
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    expected = list(TEXT.encode())
    found = tokenizer(TEXT)["input_ids"]
    expect(found == expected, f"the text becomes {found}, expected {expected}")
    expect(tokenizer.decode(found) == TEXT, f"and goes back to {tokenizer.decode(found)!r}")
    expect(tokenizer.eos_token_id == 256, f"its end is {tokenizer.eos_token_id}")
    expect(model.generation_config.eos_token_id == 256,
           f"generation ends at {model.generation_config.eos_token_id}")
    model.generate(torch.tensor([IDS]), max_new_tokens=3, do_sample=False)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    if model_type != "qwen2":  # which has rules of its own, and a note from export
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        expect(auto(TEXT)["input_ids"] == expected, "AutoTokenizer finds another tokenizer")


def main(program, report, checkpoints):
    for checkpoint in sorted(checkpoints.glob("*.h5")):
        if passes_over(checkpoint.stem, BEFORE_5):
            continue
        expected = program.logits(checkpoint, IDS)
        for way, options in WAYS.items():
            with report.check(f"{checkpoint.stem} {way}: loads, with the same logits"):
                folder = program.folder / f"{checkpoint.stem}-{way.replace(' ', '-')}"
                program("export", checkpoint, "--out", folder, *options)
                is_cut = (folder / "model.safetensors.index.json").exists()
                expect(is_cut == (way == "in parts"), "is cut otherwise than asked")
                model, difference = check_folder(folder, expected)
                if way == "f32":
                    print(f"        {type(model).__name__}, logits to {difference:.1e}")
                    check_beside(folder, model)
                shutil.rmtree(folder)
