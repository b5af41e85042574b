// GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, GELU; queries, keys and
// values in one matrix, and matrices [in, out].

#include "layers/pattern.h"
#include "train/interchange/decoder_config.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = std::to_array<NameRow>({
    {"embedding.weight", "transformer.wte.weight"},
    {"positions", "transformer.wpe.weight"},
    {"final_norm.weight", "transformer.ln_f.weight"},
    {"final_norm.bias", "transformer.ln_f.bias"},
    {"head", "lm_head.weight"},
    {"layers.{2i}.norm.weight", "transformer.h.{i}.ln_1.weight"},
    {"layers.{2i}.norm.bias", "transformer.h.{i}.ln_1.bias"},
    {"layers.{2i}.attention.w_q", "transformer.h.{i}.attn.c_attn.weight", Form::transposed},
    {"layers.{2i}.attention.w_k", "transformer.h.{i}.attn.c_attn.weight", Form::transposed},
    {"layers.{2i}.attention.w_v", "transformer.h.{i}.attn.c_attn.weight", Form::transposed},
    {"layers.{2i}.attention.b_q", "transformer.h.{i}.attn.c_attn.bias"},
    {"layers.{2i}.attention.b_k", "transformer.h.{i}.attn.c_attn.bias"},
    {"layers.{2i}.attention.b_v", "transformer.h.{i}.attn.c_attn.bias"},
    {"layers.{2i}.attention.w_o", "transformer.h.{i}.attn.c_proj.weight", Form::transposed},
    {"layers.{2i}.attention.b_o", "transformer.h.{i}.attn.c_proj.bias"},
    {"layers.{2i+1}.norm.weight", "transformer.h.{i}.ln_2.weight"},
    {"layers.{2i+1}.norm.bias", "transformer.h.{i}.ln_2.bias"},
    {"layers.{2i+1}.feed_forward.w_up", "transformer.h.{i}.mlp.c_fc.weight", Form::transposed},
    {"layers.{2i+1}.feed_forward.b_up", "transformer.h.{i}.mlp.c_fc.bias"},
    {"layers.{2i+1}.feed_forward.w_down", "transformer.h.{i}.mlp.c_proj.weight", Form::transposed},
    {"layers.{2i+1}.feed_forward.b_down", "transformer.h.{i}.mlp.c_proj.bias"},
});
constexpr auto kIgnored = std::to_array<std::string_view>({"*.attn.bias", "*.attn.masked_bias"});

ModelJson read(const ConfigReader& config) {
  const std::string activation = config.text_or("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh") {
    config.refuse("activation_function", "allowed \"gelu_new\"");
  }
  config.require("scale_attn_weights", true, "scores are scaled");
  config.require("scale_attn_by_inverse_layer_idx", false, "all layers scale alike");
  config.require("add_cross_attention", false, "a decoder alone");
  const int64_t layers = config.integer_or("n_layer", 12);
  if (layers > kMaxSublayers / 2) {
    config.refuse("n_layer", fmt::format("allowed at most {}", kMaxSublayers / 2));
  }
  const int64_t width = config.integer_or("n_embd", 768);
  return {
      {"model",
       {{"pattern", fmt::format("(AF)x{}", layers)},
        {"hidden_size", width},
        {"vocab_size", config.integer_or("vocab_size", 50257, 2)},
        {"tie_embeddings", config.boolean_or("tie_word_embeddings", true)},
        {"learned_positions", config.integer_or("n_positions", 1024)},
        {"norm", {{"type", "layer_norm"}, {"eps", config.number_or("layer_norm_epsilon", 1e-5)}}},
        {"init", {{"std", config.number_or("initializer_range", 0.02)}, {"residual", "gpt2"}}},
        {"attention",
         {{"num_heads", config.integer_or("n_head", 12)}, {"rope_theta", "none"}, {"bias", "all"}}},
        {"feed_forward",
         {{"intermediate_size", config.integer_or("n_inner", 4 * width)},
          {"activation", "gelu_tanh"},
          {"bias", true}}}}}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const auto require = [](bool is_so, std::string_view what) {
    SLUICE_CHECK(ConfigError, is_so, "{}", what);
  };
  const ModelConfig& model = recipe.model;
  require(model.norm.type == "layer_norm", "model.norm.type is rms_norm, allowed layer_norm");
  require(model.learned_positions.has_value(), "model.learned_positions is none, allowed a number");
  // The rest of the rules are those of every decoder.
  ModelConfig plain = model;
  plain.norm.type = "rms_norm";
  plain.learned_positions = std::nullopt;
  const Decoder decoder = decoder_of(plain, "attention");
  require_dense(decoder);
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  require(!attention.rope_theta, "model.attention.rope_theta is given, allowed none");
  require(attention.bias == "all", "model.attention.bias is not all, which is allowed alone");
  require(attention.qk_norm == "none", "model.attention.qk_norm is given, allowed none");
  require(!attention.window && attention.head_windows.empty(),
          "model.attention.window is given, allowed none");
  require(attention.kv_heads() == attention.num_heads &&
              attention.head_dim.value_or(model.hidden_size / attention.num_heads) *
                      attention.num_heads ==
                  model.hidden_size,
          "model.attention has other heads for keys, or heads that are not hidden_size wide "
          "together, allowed neither");
  require(decoder.dense->activation == "gelu_tanh" && decoder.dense->bias,
          "model.feed_forward is not gelu_tanh with biases, which is allowed alone");
  config["activation_function"] = "gelu_new";
  config["n_embd"] = model.hidden_size;
  config["n_layer"] = decoder.is_routed.size();
  config["n_head"] = attention.num_heads;
  config["n_positions"] = *model.learned_positions;
  config["n_inner"] = decoder.dense->intermediate_size;
  config["layer_norm_epsilon"] = model.norm.eps;
  config["initializer_range"] = model.init.std;
  config["embd_pdrop"] = model.dropout;
  config["resid_pdrop"] = model.dropout;
  config["attn_pdrop"] = 0.0;
  config["tie_word_embeddings"] = model.tie_embeddings;
}

}  // namespace

const Family gpt2_family = {
    .name = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .names = {kRows, "transformer.", kIgnored},
    .read = read,
    .write = write,
};

}  // namespace sluice
