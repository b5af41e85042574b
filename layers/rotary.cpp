#include "layers/rotary.h"

#include <array>

namespace sluice {

void RopeScalingConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 3> kTypes = {"linear", "llama3", "yarn"};
  v.word({"type", "linear, llama3 or yarn"}, type, kTypes);
  v.number({"factor", "how many times longer than the original context"}, factor, {.min = 1.0});
  v.integer({"original_max_position_embeddings", "context length before scaling (llama3, yarn)"},
            original_max_position_embeddings, {.min = 1});
  v.number({"low_freq_factor", "llama3: wavelengths above context / this are scaled fully"},
           low_freq_factor, {.min = 0.0, .exclusive_min = true});
  v.number({"high_freq_factor", "llama3: wavelengths below context / this are kept"},
           high_freq_factor, {.min = 0.0, .exclusive_min = true});
  v.number({"beta_fast", "yarn: turns over the context above which a pair is kept"}, beta_fast,
           {.min = 0.0, .exclusive_min = true});
  v.number({"beta_slow", "yarn: turns over the context below which a pair is scaled"}, beta_slow,
           {.min = 0.0, .exclusive_min = true});
}

RopeConfig rope_config(int64_t rotary_dim, double theta, const Configurable* scaling) {
  RopeConfig rope;
  rope.rotary_dim = rotary_dim;
  rope.theta = theta;
  if (const auto* config = dynamic_cast<const RopeScalingConfig*>(scaling)) {
    rope.scaling = config->type == "linear"   ? RopeScaling::linear
                   : config->type == "llama3" ? RopeScaling::llama3
                                              : RopeScaling::yarn;
    rope.factor = config->factor;
    rope.original_max_positions = config->original_max_position_embeddings;
    rope.low_frequency_factor = config->low_freq_factor;
    rope.high_frequency_factor = config->high_freq_factor;
    rope.beta_fast = config->beta_fast;
    rope.beta_slow = config->beta_slow;
  }
  return rope;
}

}  // namespace sluice
