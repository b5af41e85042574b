#include "train/interchange/gguf_model.h"

#include <array>
#include <cstdlib>

#include "autograd/support/error.h"
#include "data/tokenizers/sentencepiece.h"
#include "data/tokenizers/sentencepiece_model.h"
#include "train/interchange/config_reader.h"

namespace sluice {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr auto kRows = std::to_array<NameRow>({
    {"embedding.weight", "token_embd.weight"},
    {"final_norm.weight", "output_norm.weight"},
    {"head", "output.weight"},
    {"layers.{2i}.norm.weight", "blk.{i}.attn_norm.weight"},
    {"layers.{2i}.attention.w_q", "blk.{i}.attn_q.weight", Form::query},
    {"layers.{2i}.attention.w_k", "blk.{i}.attn_k.weight", Form::key},
    {"layers.{2i}.attention.w_v", "blk.{i}.attn_v.weight"},
    {"layers.{2i}.attention.w_o", "blk.{i}.attn_output.weight"},
    {"layers.{2i}.attention.b_q", "blk.{i}.attn_q.bias", Form::query},
    {"layers.{2i}.attention.b_k", "blk.{i}.attn_k.bias", Form::key},
    {"layers.{2i}.attention.b_v", "blk.{i}.attn_v.bias"},
    {"layers.{2i}.attention.b_o", "blk.{i}.attn_output.bias"},
    {"layers.{2i+1}.norm.weight", "blk.{i}.ffn_norm.weight"},
    {"layers.{2i+1}.feed_forward.w_gate", "blk.{i}.ffn_gate.weight"},
    {"layers.{2i+1}.feed_forward.w_up", "blk.{i}.ffn_up.weight"},
    {"layers.{2i+1}.feed_forward.w_down", "blk.{i}.ffn_down.weight"},
    {"layers.{2i+1}.feed_forward.b_gate", "blk.{i}.ffn_gate.bias"},
    {"layers.{2i+1}.feed_forward.b_up", "blk.{i}.ffn_up.bias"},
    {"layers.{2i+1}.feed_forward.b_down", "blk.{i}.ffn_down.bias"},
    {"layers.{2i+1}.router.weight", "blk.{i}.ffn_gate_inp.weight"},
    {"layers.{2i+1}.experts.w_gate", "blk.{i}.ffn_gate_exps.weight", Form::all_experts},
    {"layers.{2i+1}.experts.w_up", "blk.{i}.ffn_up_exps.weight", Form::all_experts},
    {"layers.{2i+1}.experts.w_down", "blk.{i}.ffn_down_exps.weight", Form::all_experts},
    {"layers.{2i+1}.experts.w_gate", "blk.{i}.ffn_gate.{e}.weight"},
    {"layers.{2i+1}.experts.w_up", "blk.{i}.ffn_up.{e}.weight"},
    {"layers.{2i+1}.experts.w_down", "blk.{i}.ffn_down.{e}.weight"},
});

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kKinds = "tokenizer.ggml.token_type";
constexpr float kScoreOfPadding = -1000.0f;
constexpr uint32_t kQuantizationVersion = 2;

/// The shortest decimal that is this f32: keys hold 1e-5f where a config says 1e-5.
double shortest(double value) {
  return std::strtod(fmt::format("{}", static_cast<float>(value)).c_str(), nullptr);
}

/// As llama.cpp reads them: a factor without a type stretches linearly (in old files under the name
/// scale_linear), none is 1, and the original context is that of the model.
json scaling_of(const ConfigReader& keys) {
  const std::string type = keys.text_or("llama.rope.scaling.type", "linear");
  if (type == "none") return nullptr;
  if (type != "linear" && type != "yarn") {
    keys.refuse("llama.rope.scaling.type", "allowed none, linear or yarn");
  }
  const double factor = shortest(
      keys.number_or("llama.rope.scaling.factor", keys.number_or("llama.rope.scale_linear", 1.0)));
  if (type == "linear" && (factor == 0.0 || factor == 1.0)) return nullptr;
  json scaling = {{"rope_type", type}, {"factor", factor}};
  if (type == "yarn") {
    scaling["original_max_position_embeddings"] = keys.integer_or(
        "llama.rope.scaling.original_context_length", keys.integer("llama.context_length"));
    for (const char* beta : {"beta_fast", "beta_slow"}) {
      const std::string key = fmt::format("llama.rope.scaling.yarn_{}", beta);
      if (keys.has(key)) scaling[beta] = shortest(keys.number(key));
    }
  }
  return scaling;
}

/// Throws for keys that would make the model another function than it is here.
void check_keys(const ConfigReader& keys, int64_t head_dim) {
  struct Rule {
    const char* key;
    json only;
    const char* why;
  };
  const Rule rules[] = {
      {"llama.rope.dimension_count", head_dim, "whole heads rotate"},
      {"llama.rope.scaling.attn_factor", 1.0, "scores have no factor of their own"},
      {"llama.rope.scaling.yarn_attn_factor", 1.0, "scores have no factor of their own"},
      {"llama.rope.scaling.yarn_ext_factor", 1.0, "the stretch is mixed in whole"},
      {"llama.attention.sliding_window", 0, "tokens see all before them"},
      {"llama.attention.value_length", head_dim, "values are as wide as keys"},
      {"llama.attention.scale", 0.0, "scores are divided by the root of a head's width"},
      {"llama.attention.clamp_kqv", 0.0, "queries, keys and values are not clipped"},
      {"llama.attention.causal", true, "tokens see none after them"},
      {"llama.logit_scale", 1.0, "logits are not scaled"},
      {"llama.embedding_scale", 1.0, "embeddings are not scaled"},
      {"llama.residual_scale", 1.0, "residuals are not scaled"},
  };
  for (const Rule& rule : rules) keys.require(rule.key, rule.only, rule.why);
}

json config_of(const ConfigReader& keys, const TensorFiles& tensors) {
  const std::string architecture = keys.text_or("general.architecture", "");
  if (architecture != "llama") keys.refuse("general.architecture", "allowed \"llama\"");
  const StoredTensor* embedding = tensors.find("token_embd.weight");
  SLUICE_CHECK(CheckpointError, embedding != nullptr && embedding->dims.size() == 2,
               "{}: holds no token_embd.weight, or one that is no matrix", keys.name());
  SLUICE_CHECK(CheckpointError, tensors.find("rope_freqs.weight") == nullptr,
               "{}: rope_freqs.weight stretches every frequency by itself, which is not read; "
               "import the model from safetensors",
               keys.name());
  const int64_t width = keys.integer("llama.embedding_length");
  const int64_t heads = keys.integer("llama.attention.head_count");
  const int64_t head_dim =
      keys.integer_or("llama.attention.key_length", std::max<int64_t>(1, width / heads));
  check_keys(keys, head_dim);
  json config = {
      {"model_type", "llama"},
      {"hidden_size", width},
      {"vocab_size", embedding->dims[0]},
      {"intermediate_size", keys.integer("llama.feed_forward_length")},
      {"num_hidden_layers", keys.integer("llama.block_count")},
      {"num_attention_heads", heads},
      {"num_key_value_heads", keys.integer_or("llama.attention.head_count_kv", heads)},
      {"head_dim", head_dim},
      {"max_position_embeddings", keys.integer("llama.context_length")},
      {"rms_norm_eps", shortest(keys.number("llama.attention.layer_norm_rms_epsilon"))},
      {"rope_theta", shortest(keys.number_or("llama.rope.freq_base", 10000.0))},
      {"rope_scaling", scaling_of(keys)},
      {"attention_bias", tensors.find("blk.0.attn_output.bias") != nullptr},
      {"mlp_bias", tensors.find("blk.0.ffn_down.bias") != nullptr},
      {"tie_word_embeddings", tensors.find("output.weight") == nullptr},
  };
  if (const int64_t experts = keys.integer_or("llama.expert_count", 0, 0); experts > 0) {
    config["model_type"] = "mixtral";
    config["num_local_experts"] = experts;
    config["num_experts_per_tok"] = keys.integer("llama.expert_used_count");
  }
  return config;
}

std::shared_ptr<const Tokenizer> tokenizer_of(const std::string& name, const json& keys) {
  if (!keys.contains("tokenizer.ggml.model") || keys["tokenizer.ggml.model"] != "llama") return {};
  const auto list = [&](const char* key) -> const json& {
    SLUICE_CHECK(CheckpointError, keys.contains(key) && keys[key].is_array(), "{}: has no list {}",
                 name, key);
    return keys[key];
  };
  const json& tokens = list(kTokens);
  const json& scores = list(kScores);
  const json& kinds = list(kKinds);
  SLUICE_CHECK(CheckpointError, scores.size() == tokens.size() && kinds.size() == tokens.size(),
               "{}: has {} tokens, {} scores and {} token types, allowed equally many", name,
               tokens.size(), scores.size(), kinds.size());
  SentencePieceVocabulary vocabulary;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool is_right = tokens[i].is_string() && scores[i].is_number() &&
                          kinds[i].is_number_integer() && kinds[i].get<int64_t>() >= 1 &&
                          kinds[i].get<int64_t>() <= 6;
    SLUICE_CHECK(CheckpointError, is_right, "{}: token {} is no piece of a SentencePiece model",
                 name, i);
    vocabulary.pieces.push_back(
        {tokens[i].get<std::string>(), scores[i].get<float>(),
         static_cast<SentencePieceVocabulary::Kind>(kinds[i].get<int64_t>())});
  }
  const auto id = [&](const char* key) -> std::optional<int32_t> {
    if (!keys.contains(key) || !keys[key].is_number_integer()) return std::nullopt;
    const auto token = keys[key].get<int64_t>();
    if (token < 0 || token >= std::ssize(vocabulary.pieces)) return std::nullopt;
    return static_cast<int32_t>(token);
  };
  vocabulary.bos = id("tokenizer.ggml.bos_token_id");
  vocabulary.eos = id("tokenizer.ggml.eos_token_id");
  const char* space = "tokenizer.ggml.add_space_prefix";
  if (keys.contains(space)) vocabulary.adds_space_before = keys[space] == json(true);
  return with_context([&] { return name + ": its tokenizer"; },
                      [&] { return load_sentencepiece(serialize_sentencepiece(vocabulary)); });
}

/// `general.file_type` of llama.cpp: what most tensors of a file are.
uint32_t file_type(StoredType type) {
  switch (type) {
    case StoredType::f32:
      return 0;
    case StoredType::f16:
      return 1;
    case StoredType::q8_0:
      return 7;
    case StoredType::bf16:
      return 32;
    default:
      break;
  }
  SLUICE_INTERNAL_CHECK(false, "no GGUF file of {} is written", name_of(type));
  return 0;
}

void add_tokenizer(const CheckpointMeta& meta, int64_t vocab_size, GgufKeys& keys) {
  const auto vocabulary =
      meta.tokenizer_kind == "sentencepiece" ? parse_sentencepiece(meta.tokenizer) : std::nullopt;
  SLUICE_CHECK(ConfigError, vocabulary && vocabulary->is_bpe && !vocabulary->normalises(),
               "--format gguf: its tokenizer is of kind {}, allowed a SentencePiece model of "
               "byte-pair merges without normalisation",
               meta.tokenizer_kind);
  json tokens = json::array();
  json scores = json::array();
  json kinds = json::array();
  int64_t unknown = 0;
  for (const auto& piece : vocabulary->pieces) {
    if (piece.kind == SentencePieceVocabulary::Kind::unknown) unknown = std::ssize(tokens);
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    kinds.push_back(static_cast<int32_t>(piece.kind));
  }
  // There are as many tokens as rows of the embedding, or llama.cpp refuses the file.
  for (int64_t id = std::ssize(tokens); id < vocab_size; ++id) {
    tokens.push_back(fmt::format("[PAD{}]", id));
    scores.push_back(kScoreOfPadding);
    kinds.push_back(static_cast<int32_t>(SentencePieceVocabulary::Kind::unused));
  }
  keys.emplace_back("tokenizer.ggml.model", "llama");
  keys.emplace_back("tokenizer.ggml.pre", "default");
  keys.emplace_back(kTokens, std::move(tokens));
  keys.emplace_back(kScores, std::move(scores));
  keys.emplace_back(kKinds, std::move(kinds));
  if (vocabulary->bos) keys.emplace_back("tokenizer.ggml.bos_token_id", *vocabulary->bos);
  if (vocabulary->eos) keys.emplace_back("tokenizer.ggml.eos_token_id", *vocabulary->eos);
  keys.emplace_back("tokenizer.ggml.unknown_token_id", unknown);
  keys.emplace_back("tokenizer.ggml.add_bos_token", false);
  keys.emplace_back("tokenizer.ggml.add_eos_token", false);
  keys.emplace_back("tokenizer.ggml.add_space_prefix", vocabulary->adds_space_before);
}

void add_scaling(const ordered_json& scaling, GgufKeys& keys) {
  if (scaling.is_null()) return;
  const auto type = scaling["rope_type"].get<std::string>();
  SLUICE_CHECK(ConfigError, type == "linear",
               "--format gguf: model.attention.rope_scaling is {}, allowed none or linear", type);
  keys.emplace_back("llama.rope.scaling.type", type);
  keys.emplace_back("llama.rope.scaling.factor", scaling["factor"].get<double>());
}

}  // namespace

const NameMap& gguf_names() {
  static const NameMap names{kRows, "", {}};
  return names;
}

GgufModel read_gguf_model(const std::filesystem::path& path) {
  GgufFile file = open_gguf(path);
  const ConfigReader keys(file.keys, path.string());
  return {config_of(keys, file.tensors), std::move(file.tensors),
          tokenizer_of(path.string(), file.keys)};
}

GgufKeys gguf_keys(const ordered_json& config, const CheckpointMeta& meta, StoredType type) {
  GgufKeys keys = {{"general.architecture", "llama"},
                   {"general.name", "sluice"},
                   {"general.file_type", file_type(type)},
                   {"general.quantization_version", kQuantizationVersion}};
  const auto add = [&](const char* key, const char* of_config) {
    keys.emplace_back(key, json(config[of_config]));
  };
  add("llama.vocab_size", "vocab_size");
  add("llama.context_length", "max_position_embeddings");
  add("llama.embedding_length", "hidden_size");
  add("llama.block_count", "num_hidden_layers");
  add("llama.feed_forward_length", "intermediate_size");
  add("llama.attention.head_count", "num_attention_heads");
  add("llama.attention.head_count_kv", "num_key_value_heads");
  add("llama.attention.key_length", "head_dim");
  add("llama.attention.value_length", "head_dim");
  add("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps");
  add("llama.rope.dimension_count", "head_dim");
  add("llama.rope.freq_base", "rope_theta");
  add_scaling(config["rope_scaling"], keys);
  if (config.contains("num_local_experts")) {
    SLUICE_CHECK(ConfigError, config["sliding_window"].is_null(),
                 "--format gguf: model.attention.window is given, allowed none");
    add("llama.expert_count", "num_local_experts");
    add("llama.expert_used_count", "num_experts_per_tok");
  }
  add_tokenizer(meta, config["vocab_size"].get<int64_t>(), keys);
  return keys;
}

StoredType gguf_type(const std::string& tensor, std::span<const int64_t> dims, StoredType type) {
  if (dims.size() < 2 || tensor.ends_with("ffn_gate_inp.weight")) return StoredType::f32;
  return dims.back() % block_elements(type) == 0 ? type : StoredType::f16;
}

}  // namespace sluice
