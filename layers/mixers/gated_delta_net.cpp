#include "layers/mixers/gated_delta_net.h"

#include "layers/memory_mixer.h"
#include "layers/model.h"

namespace sluice {

void GatedDeltaNetConfig::fields(FieldVisitor& v) {
  heads.fields(v);
  step_size.fields(v);
}

const MixerEntry gated_delta_net_mixer = {
    .name = "gated_delta_net",
    .symbol = 'G',
    .section = "gated_delta_net",
    .doc = "gated delta rule: a matrix per head that forgets and overwrites (Yang et al. 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<GatedDeltaNetConfig>();
    },
    .check =
        [](const ModelConfig& model, const Configurable& section) {
          return dynamic_cast<const GatedDeltaNetConfig&>(section).heads.check(model.hidden_size);
        },
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& section,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      const auto& config = dynamic_cast<const GatedDeltaNetConfig&>(section);
      return make_memory_mixer(b.child("gated_delta_net"), model,
                               {.heads = config.heads, .step_size = config.step_size});
    },
};

}  // namespace sluice
