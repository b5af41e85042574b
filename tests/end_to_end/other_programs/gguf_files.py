"""GGUF files, by the gguf package of llama.cpp's authors and by transformers."""

import contextlib
import importlib.util

from common import (expect, expect_close, expect_equal_arrays, load_in_transformers,
                    logits_in_transformers)

IDS = [5, 99, 250, 7, 7, 31, 128, 0, 64, 200, 13, 13, 255, 90, 41, 6]
LAYER = {
    "attn_norm": "layers.{a}.norm", "attn_q": "layers.{a}.attention.w_q",
    "attn_k": "layers.{a}.attention.w_k", "attn_v": "layers.{a}.attention.w_v",
    "attn_output": "layers.{a}.attention.w_o", "ffn_norm": "layers.{f}.norm",
    "ffn_gate": "layers.{f}.feed_forward.w_gate", "ffn_up": "layers.{f}.feed_forward.w_up",
    "ffn_down": "layers.{f}.feed_forward.w_down", "ffn_gate_inp": "layers.{f}.router",
    "ffn_gate_exps": "layers.{f}.experts.w_gate", "ffn_up_exps": "layers.{f}.experts.w_up",
    "ffn_down_exps": "layers.{f}.experts.w_down",
}
WHOLE = {"token_embd": "embedding.weight", "output_norm": "final_norm.weight", "output": "head"}


def our_name(theirs):
    """The parameter that holds a tensor: blk.1.attn_q.weight is layers.2.attention.w_q."""
    parts = theirs.split(".")
    if parts[0] != "blk":
        return WHOLE[parts[0]]
    name = LAYER[parts[2]].format(a=2 * int(parts[1]), f=2 * int(parts[1]) + 1)
    return name + ".weight" if name.endswith(("norm", "router")) else name


def half_split(rows, heads):
    """Of interleaved rotating rows."""
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)


def values_of(reader):
    """Every tensor as sluice names and orders it, in f32."""
    import gguf.quants

    heads = {"attn_q": reader.get_field("llama.attention.head_count").contents(),
             "attn_k": reader.get_field("llama.attention.head_count_kv").contents()}
    values = {}
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        value = value.reshape([int(size) for size in reversed(tensor.shape)])
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk") else ""
        if kind in heads:
            value = half_split(value, heads[kind])
        values[our_name(tensor.name)] = value
    return values


def parameters_of(checkpoint):
    import h5py

    with h5py.File(checkpoint, "r") as file:
        found = {}
        file["model"].visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None)
        return found


def check_keys(reader, checkpoint, file_type):
    """What llama.cpp asks of a file of this architecture."""
    parameters = parameters_of(checkpoint)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    vocab_size, width = parameters["embedding.weight"].shape
    for name, expected in {
            "general.architecture": "llama", "general.file_type": file_type,
            "general.quantization_version": 2, "llama.block_count": 2,
            "llama.vocab_size": vocab_size, "llama.embedding_length": width,
            "llama.context_length": 64,
            "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
            "llama.rope.dimension_count": 8, "llama.rope.freq_base": 500000.0,
            "tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1}.items():
        expect(keys.get(name) == expected, f"{name} is {keys.get(name)}, expected {expected}")
    expect(abs(keys["llama.attention.layer_norm_rms_epsilon"] - 1e-6) < 1e-12, "epsilon differs")
    for name in ("tokens", "scores", "token_type"):
        expect(len(keys[f"tokenizer.ggml.{name}"]) == vocab_size,
               f"tokenizer.ggml.{name} are not as many as the rows of the embedding")
    kinds = keys["tokenizer.ggml.token_type"]
    expect(kinds[:3] == [2, 3, 6] and keys["tokenizer.ggml.tokens"][2] == "<0x00>",
           f"the vocabulary begins with kinds {kinds[:3]}")


def check_written(program, checkpoint, kind, file_type):
    import gguf

    file = program.folder / f"{checkpoint.stem}-{kind}.gguf"
    program("export", checkpoint, "--format", "gguf", "--dtype", kind, "--out", file)
    reader = gguf.GGUFReader(file)
    check_keys(reader, checkpoint, file_type)
    expected = values_of(reader)
    imported = file.with_suffix(".h5")
    program("import", file, "--out", imported)
    expect_equal_arrays(parameters_of(imported), expected, "values of the file")
    if kind == "f32":
        expect_equal_arrays(parameters_of(checkpoint), expected, "values of the checkpoint")
    stored = {tensor.tensor_type.name for tensor in reader.tensors}
    expect(stored == {"F32", kind.upper()}, f"tensors are stored as {stored}")
    return file


def check_blocks(program, checkpoint):
    """Blocks of eight bits are those of the package's own writer."""
    import gguf.quants
    import numpy

    reader = gguf.GGUFReader(program.folder / f"{checkpoint.stem}-q8_0.gguf")
    original = parameters_of(checkpoint)
    for tensor in reader.tensors:
        if tensor.tensor_type.name != "Q8_0" or "attn_q" in tensor.name or "attn_k" in tensor.name:
            continue
        rows = original[our_name(tensor.name)]
        expected = gguf.quants.quantize(rows, tensor.tensor_type)
        expect(numpy.array_equal(expected.ravel(), numpy.asarray(tensor.data).ravel()),
               f"{tensor.name} is rounded otherwise")


def write_llama(path, kind):
    """A Llama of the package's own writer, its matrices in blocks of `kind`."""
    import gguf
    import gguf.quants
    import numpy

    random = numpy.random.default_rng(3)
    with contextlib.closing(gguf.GGUFWriter(path, "llama")) as writer:
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_block_count(1)
        writer.add_feed_forward_length(96)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(16)
        shapes = {"token_embd": (300, 64), "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64),
                  "blk.0.attn_v": (32, 64), "blk.0.attn_output": (64, 64),
                  "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64), "blk.0.ffn_down": (64, 96),
                  "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,)}
        for name, shape in shapes.items():
            rows = random.standard_normal(shape).astype(numpy.float32)
            if len(shape) == 1:
                writer.add_tensor(f"{name}.weight", rows)
            else:
                writer.add_tensor(f"{name}.weight", gguf.quants.quantize(rows, kind),
                                  raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def check_read(program, kind):
    import gguf

    file = program.folder / f"theirs-{kind.name}.gguf"
    write_llama(file, kind)
    imported = file.with_suffix(".h5")
    program("import", file, "--out", imported, "--tokenizer", "bytes")
    expect_equal_arrays(parameters_of(imported), values_of(gguf.GGUFReader(file)), "values")


def check_transformers(program, checkpoint, file):
    model = load_in_transformers(file.parent, gguf_file=file.name)
    expected = program.logits(checkpoint, IDS)
    expect_close(logits_in_transformers(model, IDS), expected, 1e-4, "logits")


def main(program, report, checkpoints):
    from gguf import GGMLQuantizationType

    files = {}
    for checkpoint in sorted(checkpoints.glob("*.h5")):
        for kind, file_type in (("f32", 0), ("f16", 1), ("q8_0", 7), ("bf16", 32)):
            with report.check(f"{checkpoint.stem} {kind}: the package reads what sluice reads"):
                files[checkpoint, kind] = check_written(program, checkpoint, kind, file_type)
        with report.check(f"{checkpoint.stem} q8_0: rounded as the package rounds"):
            check_blocks(program, checkpoint)
        # transformers reads no Mixtral from these files, and needs this package for the others.
        if checkpoint.stem == "llama" and importlib.util.find_spec("accelerate"):
            with report.check(f"{checkpoint.stem}: transformers computes the same logits"):
                check_transformers(program, checkpoint, files[checkpoint, "f32"])
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        with report.check(f"a file of the package's own writer in {name}: the same values"):
            check_read(program, GGMLQuantizationType[name])
