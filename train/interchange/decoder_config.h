#pragma once
// What the decoder families share: layers of a mixer and a feed-forward, each behind a norm.

#include <nlohmann/json.hpp>
#include <vector>

#include "layers/ffns/dense.h"
#include "layers/ffns/moe.h"
#include "layers/mixers/attention.h"
#include "layers/mixers/latent_attention.h"
#include "layers/routers/node_limited.h"
#include "train/interchange/config_reader.h"
#include "train/recipe.h"

namespace sluice {

using ModelJson = nlohmann::ordered_json;

// --- config.json to a recipe -----------------------------------------------------------------------

/// num_hidden_layers, at most what a pattern may spell.
[[nodiscard]] int64_t read_num_layers(const ConfigReader& config);
/// "(AF)x2(AE)x4": `mixer` before F or, where is_routed says so, E.
[[nodiscard]] std::string pattern_of(char mixer, const std::vector<bool>& is_routed);
/// hidden_size, vocab_size, tie_embeddings, norm and init; `eps` where the config gives none.
void read_widths(const ConfigReader& config, ModelJson& model, double eps = 1e-6);
/// The attention of a family, in the words of AttentionHeadsConfig.
struct AttentionForm {
  std::string_view bias = "none";
  std::string_view qk_norm = "none";
  bool allows_window = false;
  double rope_theta = 10000.0;  // where the config gives none
};
/// The section `attention`: heads, rotation and, where the family has it, window.
void read_attention(const ConfigReader& config, const AttentionForm& form, ModelJson& model);
/// rope_theta, rope_scaling and max_position_embeddings into a section of attention; `theta` where
/// the config gives none.
void read_rotation(const ConfigReader& config, ModelJson& section, double theta = 10000.0);
/// rope_scaling of either generation of config.json; nullopt for none.
[[nodiscard]] std::optional<ConfigReader> rope_scaling_of(const ConfigReader& config);
/// The section `feed_forward` of intermediate_size.
void read_feed_forward(const ConfigReader& config, bool bias, ModelJson& model);
/// The section `model` of a family without experts: attention and a feed-forward in every layer.
[[nodiscard]] ModelJson read_dense_decoder(const ConfigReader& config, const AttentionForm& form,
                                           bool feed_forward_bias = false);
/// A softmax router of the family: weights renormalised or as they are.
[[nodiscard]] ModelJson softmax_router(bool renormalises);
/// The loss that the family trains with, by its coefficient; none for 0.
[[nodiscard]] ModelJson auxiliary_loss(const ConfigReader& config, std::string_view key,
                                       double absent);
/// Hidden layers use SiLU.
void require_silu(const ConfigReader& config);

// --- a recipe to config.json -----------------------------------------------------------------------

/// The layers of a model as a decoder family has them.
struct Decoder {
  const Configurable* mixer = nullptr;
  const DenseConfig* dense = nullptr;      // null where all layers route
  const ExpertsConfig* experts = nullptr;  // null where none does
  std::vector<bool> is_routed;             // by layer
};

/// Throws ConfigError unless the model is `mixer` and feed-forwards in turn, of one kind each, with
/// RMSNorm and rotary positions, and nothing in which it differs from every family.
[[nodiscard]] Decoder decoder_of(const ModelConfig& model, std::string_view mixer);
/// For a family without experts, and for one with experts in every layer.
void require_dense(const Decoder& decoder);
void require_routed(const Decoder& decoder);

/// What read_widths reads, and num_hidden_layers.
void write_widths(const ModelConfig& model, const Decoder& decoder, ModelJson& config);
/// What read_attention reads. Throws ConfigError unless the attention is of this form.
void write_attention(const ModelConfig& model, const AttentionConfig& attention,
                     const AttentionForm& form, ModelJson& config);
void write_rotation(double theta, const Configurable* scaling, int64_t max_positions,
                    ModelJson& config);
/// What read_dense_decoder reads, of a feed-forward without biases.
void write_dense_decoder(const Recipe& recipe, const AttentionForm& form, ModelJson& config);
/// Throws ConfigError unless hidden_size is a multiple of the heads, which other programs may want
/// even where the width of a head is given.
void require_width_of_heads(const ModelConfig& model, int64_t num_heads);
/// SwiGLU without biases unless the family has them.
void require_swiglu(const DenseConfig& dense, bool allows_bias = false);

/// The router of a layer whose experts are plain SwiGLU. Throws ConfigError unless its scores and
/// weights are what the family computes; nothing else of it matters in evaluation.
struct RouterFacts {
  int64_t top_k = 1;
  bool renormalises = false;
  const TopKRouterConfig* config = nullptr;
  const NodeLimitedConfig* groups = nullptr;  // null for a plain top-k
};
[[nodiscard]] RouterFacts router_of(const ExpertsConfig& experts);
/// The same, of a softmax over all experts, without groups or scale.
[[nodiscard]] RouterFacts softmax_router_of(const ExpertsConfig& experts);
/// Its shared experts; null without.
[[nodiscard]] const SharedExpertsConfig* shared_of(const ExpertsConfig& experts);
void require_no_shared_experts(const ExpertsConfig& experts);
/// The coefficient of the recipe's aux_loss, 0 without.
[[nodiscard]] double auxiliary_coefficient(const Recipe& recipe);

}  // namespace sluice
