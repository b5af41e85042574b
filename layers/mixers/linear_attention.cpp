#include "layers/mixers/linear_attention.h"

#include "layers/memory_mixer.h"
#include "layers/model.h"

namespace sluice {

LinearAttentionConfig::LinearAttentionConfig() {
  heads.conv_kernel = {};
  heads.output_gate = false;
}

void LinearAttentionConfig::fields(FieldVisitor& v) {
  heads.fields(v);
  v.enumeration({"feature_map",
                 "phi of queries and keys: elu_plus_one, hadamard ((W1 x) * (W2 x)) or identity"},
                feature_map,
                {{"elu_plus_one", FeatureMap::elu_plus_one},
                 {"hadamard", FeatureMap::hadamard},
                 {"identity", FeatureMap::identity}});
  v.boolean({"normalise", "divide what is read by what the sum of keys gives for the query"},
            normalise);
  v.boolean({"decay", "the memory forgets by a gate per head and token (gated linear attention)"},
            decay);
  v.boolean({"output_norm", "RMSNorm of what each head reads"}, output_norm);
  step_size.fields(v);
}

std::string LinearAttentionConfig::check() const {
  if (normalise && feature_map != FeatureMap::elu_plus_one) {
    return "normalise: found true, allowed with feature_map elu_plus_one only, whose sums are "
           "positive; use output_norm with the others";
  }
  return step_size.check();
}

const MixerEntry linear_attention_mixer = {
    .name = "linear_attention",
    .symbol = 'L',
    .section = "linear_attention",
    .doc = "linear attention: sums of keys times values (Katharopoulos et al. 2020), or gated",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<LinearAttentionConfig>();
    },
    .check =
        [](const ModelConfig& model, const Configurable& section) {
          return dynamic_cast<const LinearAttentionConfig&>(section).heads.check(model.hidden_size);
        },
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& section,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      const auto& config = dynamic_cast<const LinearAttentionConfig&>(section);
      return make_memory_mixer(b.child("linear_attention"), model,
                               {.heads = config.heads,
                                .step_size = config.step_size,
                                .update = MemoryUpdate::sum,
                                .feature_map = config.feature_map,
                                .has_decay = config.decay,
                                .has_beta = false,
                                .normalises = config.normalise,
                                .has_output_norm = config.output_norm,
                                .has_silu = false});
    },
};

}  // namespace sluice
