"""Models that transformers makes and saves, imported: the same logits; and exported again: the same
tensors to a bit, which transformers loads."""

import copy
import json
import math
import shutil

from common import (expect, expect_close, expect_equal_arrays, load_in_transformers,
                    logits_in_transformers, passes_over)

RELATIVE = 1e-4
# Of one program and the same weights, which may lie elsewhere in memory.
SAME = 1e-6
IDS = [5, 99, 250, 7, 7, 31, 128, 0, 64, 200, 13, 13, 299, 90, 41, 6, 177, 178, 3, 2]

SHAPE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3,
         "max_position_embeddings": 64, "rms_norm_eps": 3e-5, "intermediate_size": 40}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LATENT = {"num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 8,
          "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 6}
DEEPSEEK = {**SHAPE, **LATENT, "moe_intermediate_size": 12, "n_routed_experts": 8,
            "num_experts_per_tok": 3, "first_k_dense_replace": 1}
QWEN_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 12}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 8.0, "beta_slow": 1.0}
MAMBA = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8,
         "expand": 2, "state_size": 6, "conv_kernel": 3, "chunk_size": 8,
         "layer_norm_epsilon": 3e-5}

CASES = {
    "llama": ("Llama", {**SHAPE, **HEADS, "rope_theta": 5e5}),
    "llama tied, with biases and heads of their own width":
        ("Llama", {**SHAPE, **HEADS, "tie_word_embeddings": True, "attention_bias": True,
                   "mlp_bias": True, "head_dim": 6}),
    "llama, linear scaling":
        ("Llama", {**SHAPE, **HEADS, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama, llama3 scaling":
        ("Llama", {**SHAPE, **HEADS,
                   "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 16}}),
    "llama, yarn scaling": ("Llama", {**SHAPE, **HEADS, "rope_scaling": YARN}),
    "mistral, a window": ("Mistral", {**SHAPE, **HEADS, "sliding_window": 5, "head_dim": 6}),
    "mistral, no window": ("Mistral", {**SHAPE, **HEADS, "sliding_window": None}),
    "qwen2": ("Qwen2", {**SHAPE, **HEADS, "rope_theta": 1e6}),
    "qwen2 tied": ("Qwen2", {**SHAPE, **HEADS, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**SHAPE, **HEADS, "head_dim": 6, "tie_word_embeddings": True}),
    "qwen3 with biases": ("Qwen3", {**SHAPE, **HEADS, "head_dim": 8, "attention_bias": True}),
    "mixtral": ("Mixtral", {**SHAPE, **HEADS, "num_local_experts": 6, "num_experts_per_tok": 3}),
    "mixtral tied, a window":
        ("Mixtral", {**SHAPE, **HEADS, "num_local_experts": 4, "num_experts_per_tok": 2,
                     "sliding_window": 4, "head_dim": 6, "tie_word_embeddings": True}),
    "olmoe": ("Olmoe", {**SHAPE, **HEADS, "num_experts": 6, "num_experts_per_tok": 3,
                        "norm_topk_prob": False}),
    "olmoe, weights divided by their sum":
        ("Olmoe", {**SHAPE, **HEADS, "num_experts": 6, "num_experts_per_tok": 3,
                   "norm_topk_prob": True, "tie_word_embeddings": True}),
    "qwen2_moe": ("Qwen2Moe", {**SHAPE, **HEADS, **QWEN_EXPERTS, "norm_topk_prob": False,
                               "shared_expert_intermediate_size": 20}),
    "qwen2_moe, every second layer, weights divided by their sum":
        ("Qwen2Moe", {**SHAPE, **HEADS, **QWEN_EXPERTS, "norm_topk_prob": True,
                      "decoder_sparse_step": 2, "qkv_bias": False,
                      "shared_expert_intermediate_size": 20}),
    "qwen3_moe": ("Qwen3Moe", {**SHAPE, **HEADS, **QWEN_EXPERTS, "norm_topk_prob": True,
                               "head_dim": 6}),
    "qwen3_moe, a dense layer, weights as they are":
        ("Qwen3Moe", {**SHAPE, **HEADS, **QWEN_EXPERTS, "norm_topk_prob": False,
                      "mlp_only_layers": [1], "attention_bias": True}),
    "deepseek_v2": ("DeepseekV2", {**DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 2,
                                   "routed_scaling_factor": 1.7}),
    "deepseek_v2, groups, yarn":
        ("DeepseekV2", {**DEEPSEEK, "q_lora_rank": 6, "n_shared_experts": 1,
                        "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
                        "routed_scaling_factor": 16.0,
                        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7}}),
    "deepseek_v3": ("DeepseekV3", {**DEEPSEEK, "q_lora_rank": 6, "n_shared_experts": 1, "n_group": 4,
                                   "topk_group": 2, "routed_scaling_factor": 2.5,
                                   "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "deepseek_v3, one group, weights as they are":
        ("DeepseekV3", {**DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 2, "n_group": 1,
                        "topk_group": 1, "norm_topk_prob": False, "routed_scaling_factor": 1.0}),
    "gpt2": ("GPT2", {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4,
                      "n_positions": 40, "layer_norm_epsilon": 3e-5}),
    "gpt2 untied, its own inner width":
        ("GPT2", {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40,
                  "n_inner": 50, "tie_word_embeddings": False}),
    "mamba2": ("Mamba2", {**MAMBA, "n_groups": 1, "tie_word_embeddings": True}),
    "mamba2, groups, no bias of the convolution":
        ("Mamba2", {**MAMBA, "n_groups": 2, "use_conv_bias": False, "tie_word_embeddings": False}),
    "mamba2, bounded steps":
        ("Mamba2", {**MAMBA, "n_groups": 4, "time_step_limit": (0.01, 0.6)}),
}

BEFORE_5 = {
    "deepseek_v2, groups, yarn": "leaves out how yarn scales the scores",
    "mamba2": "does not save it",
    "mamba2, groups, no bias of the convolution": "normalises the channels of all groups together",
    "mamba2, bounded steps": "normalises the channels of all groups together",
}

# How some of them are saved, and what `export` is told to save them so.
SAVED = {
    "llama, yarn scaling": ("bfloat16", "10GB"),
    "qwen3": ("float32", "30KB"),
    "mixtral": ("bfloat16", "40KB"),
    "gpt2": ("float16", "10GB"),
}
TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

# Of a saved case, what of its config.json is changed, and what the refusal says.
REFUSED = [
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, allowed 1.0"),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                   "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
     "rope_type: found \"dynamic\", allowed default, linear, llama3 or yarn"),
    ("llama", {"rope_parameters": {**YARN, "rope_theta": 1e4, "truncate": False}}, "truncate"),
    ("llama", {"rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 1.0,
                                   "mscale_all_dim": 1.0}}, "mscale: found 1.0, allowed none"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
     "allowed one rotation for all layers"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window: found true, allowed false"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv: found 8.0, allowed null"),
    ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob: found true, allowed false"),
    ("deepseek_v2", {"rope_parameters": {**YARN, "rope_theta": 1e4}},
     "mscale_all_dim: not given, allowed a number above 0"),
    ("deepseek_v3", {"rope_interleave": False}, "rope_interleave: found false, allowed true"),
    ("deepseek_v3", {"num_experts_per_tok": 1}, "norm_topk_prob: found true, allowed false"),
    ("deepseek_v3", {"attention_bias": True}, "attention_bias: found true, allowed false"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("mamba2", {"use_bias": True}, "use_bias: found true, allowed false"),
]


def value_of(name, shape):
    """Random numbers that no part of the model can be without: norms and biases differ from 1 and 0."""
    import torch

    x = torch.randn(shape)
    if name.endswith("A_log"):
        return torch.log(1.0 + 7.0 * torch.rand(shape))
    if "norm" in name or ".ln_" in name or name.endswith(".D"):
        return (0.3 * x if name.endswith("bias") else 1.0 + 0.3 * x)
    if x.dim() == 1:
        return 0.3 * x
    if "embed" in name or "wte" in name or "wpe" in name:
        return x
    return 1.5 * x / math.sqrt(shape[-1])


def make(kind, settings, dtype):
    """In f32, its weights rounded to `dtype`."""
    import torch
    import transformers

    torch.manual_seed(7)
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    # The config keeps and changes what it is given.
    config = getattr(transformers, f"{kind}Config")(**copy.deepcopy(settings))
    model = getattr(transformers, f"{kind}{suffix}")(config).eval()
    with torch.no_grad():
        tensors = list(model.named_parameters())
        tensors += [(n, b) for n, b in model.named_buffers() if n.endswith("correction_bias")]
        for name, tensor in tensors:
            tensor.copy_(value_of(name, tensor.shape).to(dtype))
    return model


def tensors_of(folder):
    """The bytes of each, since NumPy has no bfloat16."""
    import torch
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{name} {tensor.dtype}"] = tensor.unsqueeze(-1).view(torch.uint8).numpy()
    return found


def check(program, folder, kind, settings, saved):
    """There and back; what transformers saved stays in `folder`."""
    import torch

    dtype, shard = saved
    model = make(kind, settings, getattr(torch, dtype))
    expected = logits_in_transformers(model, IDS)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    is_cut = (folder / "model.safetensors.index.json").exists()
    expect(is_cut == shard.endswith("KB"), "is cut otherwise than asked")
    imported = folder.with_suffix(".h5")
    program("import", folder, "--out", imported, "--tokenizer", "bytes")
    difference = expect_close(program.logits(imported, IDS), expected, RELATIVE, "logits")
    back = folder.with_name(folder.name + "-back")
    program("export", imported, "--out", back, "--dtype", TYPES[dtype])
    types = [json.loads((f / "config.json").read_text())["model_type"] for f in (folder, back)]
    expect(types[0] == types[1] or types == ["llama", "mistral"] or types == ["mistral", "llama"],
           f"a {types[0]} model goes out as {types[1]}")
    expect_equal_arrays(tensors_of(back), tensors_of(folder), "tensors after import and export")
    again = logits_in_transformers(load_in_transformers(back), IDS)
    expect_close(again, expected, SAME, "logits of the exported folder")
    imported.unlink()
    shutil.rmtree(back)
    print(f"        {types[1]}, logits to {difference:.1e}")


def main(program, report, _):
    for name, (kind, settings) in CASES.items():
        if passes_over(name, BEFORE_5):
            continue
        with report.check(f"{name}: has the same logits here, and comes back the same"):
            check(program, program.folder / name.replace(" ", "-"), kind, settings,
                  SAVED.get(name, ("float32", "10GB")))
    for number, (name, changes, sentence) in enumerate(REFUSED):
        if passes_over(name, BEFORE_5):
            continue
        with report.check(f"{name} with {', '.join(changes)}: is refused"):
            folder = program.folder / f"refused-{number}"
            shutil.copytree(program.folder / name, folder)
            config = json.loads((folder / "config.json").read_text())
            config.update(changes)
            (folder / "config.json").write_text(json.dumps(config))
            program.refuses(sentence, "import", folder, "--out", folder.with_suffix(".h5"),
                            "--tokenizer", "bytes")
