#include "train/interchange/decoder_config.h"

#include <algorithm>
#include <cmath>

#include "layers/pattern.h"
#include "layers/rotary.h"
#include "train/field_snapshot.h"

namespace sluice {
namespace {

/// Throws ConfigError: what a family has not.
template <class... Args>
void require(bool is_so, fmt::format_string<Args...> text, Args&&... args) {
  SLUICE_CHECK(ConfigError, is_so, "{}", fmt::format(text, std::forward<Args>(args)...));
}

ModelJson read_scaling(const ConfigReader& scaling, int64_t max_positions) {
  const std::string type = scaling.text_or("rope_type", scaling.text_or("type", ""));
  const auto original = scaling.integer_or("original_max_position_embeddings", max_positions);
  ModelJson result = {{"type", type}, {"factor", scaling.number("factor")}};
  if (type == "llama3") {
    result["original_max_position_embeddings"] = original;
    result["low_freq_factor"] = scaling.number_or("low_freq_factor", 1.0);
    result["high_freq_factor"] = scaling.number_or("high_freq_factor", 4.0);
  } else if (type == "yarn") {
    scaling.require("attention_factor", nullptr, "0.1 ln(factor) + 1 is computed");
    scaling.require("truncate", true, "the range of turning pairs is rounded outwards");
    result["original_max_position_embeddings"] = original;
    result["beta_fast"] = scaling.number_or("beta_fast", 32.0);
    result["beta_slow"] = scaling.number_or("beta_slow", 1.0);
  } else if (type != "linear") {
    scaling.refuse(scaling.has("rope_type") ? "rope_type" : "type",
                   "allowed default, linear, llama3 or yarn");
  }
  return result;
}

}  // namespace

int64_t read_num_layers(const ConfigReader& config) {
  const int64_t layers = config.integer("num_hidden_layers");
  if (layers > kMaxSublayers / 2) {
    config.refuse("num_hidden_layers", fmt::format("allowed at most {}", kMaxSublayers / 2));
  }
  return layers;
}

std::string pattern_of(char mixer, const std::vector<bool>& is_routed) {
  std::string pattern;
  for (size_t begin = 0; begin < is_routed.size();) {
    size_t end = begin;
    while (end < is_routed.size() && is_routed[end] == is_routed[begin]) ++end;
    pattern += fmt::format("({}{})x{}", mixer, is_routed[begin] ? 'E' : 'F', end - begin);
    begin = end;
  }
  return pattern;
}

void read_widths(const ConfigReader& config, ModelJson& model, double eps) {
  model["hidden_size"] = config.integer("hidden_size");
  model["vocab_size"] = config.integer("vocab_size", 2);
  model["tie_embeddings"] = config.boolean_or("tie_word_embeddings", false);
  model["norm"] = {{"type", "rms_norm"}, {"eps", config.number_or("rms_norm_eps", eps)}};
  model["init"] = {{"std", config.number_or("initializer_range", 0.02)}};
}

std::optional<ConfigReader> rope_scaling_of(const ConfigReader& config) {
  auto scaling = config.object("rope_scaling");
  if (!scaling) scaling = config.object("rope_parameters");
  if (!scaling) return std::nullopt;
  if (scaling->text_or("rope_type", scaling->text_or("type", "default")) == "default") {
    return std::nullopt;
  }
  return scaling;
}

void read_rotation(const ConfigReader& config, ModelJson& section, double theta) {
  const int64_t max_positions = config.integer_or("max_position_embeddings", 2048);
  theta = config.number_or("rope_theta", theta);
  if (const auto parameters = config.object("rope_parameters")) {
    theta = parameters->number_or("rope_theta", theta);
    parameters->require("partial_rotary_factor", 1.0, "whole heads rotate");
    for (const char* kind : {"full_attention", "sliding_attention"}) {
      if (parameters->has(kind)) parameters->refuse(kind, "allowed one rotation for all layers");
    }
  }
  config.require("partial_rotary_factor", 1.0, "whole heads rotate");
  section["rope_theta"] = theta;
  section["max_position_embeddings"] = max_positions;
  if (const auto scaling = rope_scaling_of(config)) {
    section["rope_scaling"] = read_scaling(*scaling, max_positions);
  }
}

void read_attention(const ConfigReader& config, const AttentionForm& form, ModelJson& model) {
  const int64_t heads = config.integer("num_attention_heads");
  ModelJson attention = {{"num_heads", heads},
                         {"num_kv_heads", config.integer_or("num_key_value_heads", heads)},
                         {"bias", form.bias},
                         {"qk_norm", form.qk_norm}};
  if (const auto head_dim = config.optional_integer("head_dim")) attention["head_dim"] = *head_dim;
  read_rotation(config, attention, form.rope_theta);
  const auto scaling = rope_scaling_of(config);
  if (scaling && scaling->number_or("mscale", 0.0) != 0.0 &&
      scaling->number_or("mscale_all_dim", 0.0) != 0.0) {
    scaling->refuse("mscale", "allowed none (0.1 ln(factor) + 1 is computed)");
  }
  if (form.allows_window) {
    if (const auto window = config.optional_integer("sliding_window")) {
      attention["window"] = *window;
    }
  }
  model["attention"] = std::move(attention);
}

void read_feed_forward(const ConfigReader& config, bool bias, ModelJson& model) {
  model["feed_forward"] = {{"intermediate_size", config.integer("intermediate_size")},
                           {"bias", bias}};
}

ModelJson read_dense_decoder(const ConfigReader& config, const AttentionForm& form,
                             bool feed_forward_bias) {
  require_silu(config);
  const auto layers = static_cast<size_t>(read_num_layers(config));
  ModelJson model = {{"pattern", pattern_of('A', std::vector<bool>(layers, false))}};
  read_widths(config, model);
  read_attention(config, form, model);
  read_feed_forward(config, feed_forward_bias, model);
  return model;
}

ModelJson softmax_router(bool renormalises) {
  return {{"type", "top_k"},
          {"scores", "softmax"},
          {"weights", renormalises ? "renormalise" : "as_is"}};
}

ModelJson auxiliary_loss(const ConfigReader& config, std::string_view key, double absent) {
  const double coefficient = config.number_or(key, absent);
  if (coefficient == 0.0) return {{"type", "none"}};
  return {{"type", "aux_loss"}, {"coefficient", coefficient}, {"fractions", "tokens"}};
}

void require_silu(const ConfigReader& config) {
  const std::string activation = config.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    config.refuse("hidden_act", "allowed \"silu\"");
}

// --- a recipe to config.json -----------------------------------------------------------------------

Decoder decoder_of(const ModelConfig& model, std::string_view mixer) {
  require(model.dtype == "f32", "model.dtype is {}, allowed f32", model.dtype);
  require(model.norm.type == "rms_norm", "model.norm.type is {}, allowed rms_norm",
          model.norm.type);
  require(!model.learned_positions, "model.learned_positions is given, allowed none");
  require(model.depth.type.empty(), "model.depth is {}, allowed none", model.depth.type);
  const std::vector<SublayerSpec> sublayers = model.sublayers();
  Decoder decoder;
  const Configurable* feed_forwards[2] = {};  // dense, routed
  for (size_t i = 0; i < sublayers.size(); ++i) {
    const SublayerSpec& sublayer = sublayers[i];
    if (i % 2 == 0) {
      require(sublayer.mixer != nullptr && sublayer.mixer->name == mixer,
              "sublayer {} of model.pattern is {}, allowed {}", i, sublayer.symbol, mixer);
      require(decoder.mixer == nullptr || decoder.mixer == sublayer.config,
              "model.pattern has several kinds of {}, allowed one", mixer);
      decoder.mixer = sublayer.config;
      continue;
    }
    const std::string_view name =
        sublayer.feed_forward != nullptr ? sublayer.feed_forward->name : "a mixer";
    const bool is_routed = name == "moe";
    require(is_routed || name == "dense",
            "sublayer {} of model.pattern is {}, allowed a feed-forward, dense or moe", i,
            sublayer.symbol);
    const Configurable*& known = feed_forwards[is_routed ? 1 : 0];
    require(known == nullptr || known == sublayer.config,
            "model.pattern has several kinds of {} feed-forward, allowed one", name);
    known = sublayer.config;
    decoder.is_routed.push_back(is_routed);
  }
  require(sublayers.size() % 2 == 0 && !sublayers.empty(),
          "model.pattern ends in {}, allowed a feed-forward behind every mixer",
          sublayers.empty() ? '-' : sublayers.back().symbol);
  decoder.dense = dynamic_cast<const DenseConfig*>(feed_forwards[0]);
  decoder.experts = dynamic_cast<const ExpertsConfig*>(feed_forwards[1]);
  return decoder;
}

void require_dense(const Decoder& decoder) {
  require(decoder.experts == nullptr, "the model has experts, allowed dense feed-forwards");
}

void require_routed(const Decoder& decoder) {
  require(decoder.dense == nullptr && decoder.experts != nullptr,
          "the model has dense feed-forwards, allowed experts in every layer");
}

void write_widths(const ModelConfig& model, const Decoder& decoder, ModelJson& config) {
  config["hidden_size"] = model.hidden_size;
  config["num_hidden_layers"] = decoder.is_routed.size();
  config["rms_norm_eps"] = model.norm.eps;
  config["tie_word_embeddings"] = model.tie_embeddings;
  config["initializer_range"] = model.init.std;
  config["hidden_act"] = "silu";
}

void write_rotation(double theta, const Configurable* scaling, int64_t max_positions,
                    ModelJson& config) {
  config["max_position_embeddings"] = max_positions;
  config["rope_theta"] = theta;
  config["rope_scaling"] = nullptr;
  const auto* stretch = dynamic_cast<const RopeScalingConfig*>(scaling);
  if (stretch == nullptr) return;
  ModelJson written = {{"rope_type", stretch->type}, {"factor", stretch->factor}};
  if (stretch->type != "linear") {
    written["original_max_position_embeddings"] = stretch->original_max_position_embeddings;
  }
  if (stretch->type == "llama3") {
    written["low_freq_factor"] = stretch->low_freq_factor;
    written["high_freq_factor"] = stretch->high_freq_factor;
  }
  if (stretch->type == "yarn") {
    written["beta_fast"] = stretch->beta_fast;
    written["beta_slow"] = stretch->beta_slow;
  }
  config["rope_scaling"] = std::move(written);
}

void write_attention(const ModelConfig& model, const AttentionConfig& attention,
                     const AttentionForm& form, ModelJson& config) {
  require(attention.bias == form.bias, "model.attention.bias is {}, allowed {}", attention.bias,
          form.bias);
  require(attention.qk_norm == form.qk_norm, "model.attention.qk_norm is {}, allowed {}",
          attention.qk_norm, form.qk_norm);
  require(form.allows_window || !attention.window, "model.attention.window is given, allowed none");
  require(attention.rope_theta.has_value(), "model.attention.rope_theta is none, allowed a number");
  require(attention.head_windows.empty(),
          "model.attention.head_windows are given, allowed one window for all heads");
  config["num_attention_heads"] = attention.num_heads;
  config["num_key_value_heads"] = attention.kv_heads();
  config["head_dim"] = attention.head_dim.value_or(model.hidden_size / attention.num_heads);
  if (form.allows_window) {
    config["sliding_window"] = attention.window ? ModelJson(*attention.window) : ModelJson();
  }
  write_rotation(*attention.rope_theta, attention.rope_scaling.get(),
                 attention.max_position_embeddings, config);
}

void write_dense_decoder(const Recipe& recipe, const AttentionForm& form, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_dense(decoder);
  require_swiglu(*decoder.dense);
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.dense->intermediate_size;
  write_attention(recipe.model, dynamic_cast<const AttentionConfig&>(*decoder.mixer), form, config);
}

void require_width_of_heads(const ModelConfig& model, int64_t num_heads) {
  require(model.hidden_size % num_heads == 0,
          "model.hidden_size is {}, allowed a multiple of the {} heads", model.hidden_size,
          num_heads);
}

void require_swiglu(const DenseConfig& dense, bool allows_bias) {
  require(dense.activation == "swiglu", "model.feed_forward.activation is {}, allowed swiglu",
          dense.activation);
  require(allows_bias || !dense.bias, "model.feed_forward.bias is true, allowed false");
}

RouterFacts router_of(const ExpertsConfig& experts) {
  require(experts.form.type == "swiglu", "model.experts.form is {}, allowed swiglu",
          experts.form.type);
  require(experts.pool_layers == 1, "model.experts.pool_layers is given, allowed 1");
  require(experts.momentum == nullptr, "model.experts.momentum is given, allowed none");
  require(experts.top_k.is_constant(), "model.experts.top_k follows a schedule, allowed a number");
  const std::string& type = experts.router.type;
  require(type == "top_k" || type == "node_limited",
          "model.experts.router is {}, allowed top_k (node_limited for DeepSeek)", type);
  const auto& config = dynamic_cast<const TopKRouterConfig&>(*experts.router.config);
  require(config.weights != "straight_through",
          "model.experts.router.weights is straight_through, allowed renormalise, softmax_after or "
          "as_is");
  return {.top_k = experts.largest_top_k(),
          .renormalises = config.weights != "as_is",
          .config = &config,
          .groups = dynamic_cast<const NodeLimitedConfig*>(&config)};
}

RouterFacts softmax_router_of(const ExpertsConfig& experts) {
  const RouterFacts router = router_of(experts);
  require(router.groups == nullptr, "model.experts.router is node_limited, allowed top_k");
  require(router.config->scores == "softmax", "model.experts.router.scores is {}, allowed softmax",
          router.config->scores);
  require(router.config->scale == 1.0, "model.experts.router.scale is {}, allowed 1",
          router.config->scale);
  return router;
}

const SharedExpertsConfig* shared_of(const ExpertsConfig& experts) {
  return dynamic_cast<const SharedExpertsConfig*>(experts.shared.get());
}

void require_no_shared_experts(const ExpertsConfig& experts) {
  require(experts.shared == nullptr, "model.experts.shared is given, allowed none");
}

double auxiliary_coefficient(const Recipe& recipe) {
  for (const Tagged& method : recipe.balance) {
    if (method.type != "aux_loss") continue;
    for (const FlatField& field : flatten(*method.config)) {
      if (field.key == "coefficient") return std::strtod(field.value.c_str(), nullptr);
    }
  }
  return 0.0;
}

}  // namespace sluice
