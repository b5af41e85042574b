// Mixture-of-Mamba (Liang et al. 2025, arXiv 2501.16295): Mamba (mamba1.h) whose projections have
// parameters for each modality. Convolution, A_log and D are shared, and the state flows on from one
// modality to the next.
//
// Each projection can be tied again by itself; the published layer unties all. The bias of the step
// sizes belongs to their projection. Equal copies are mamba1.h exactly. The authors' in_proj is w_u and
// w_z here.
//
// Parameters: those of mamba1.h below "mixture_of_mamba"; untied ones [R, ...] of R modalities.

#include "layers/mixers/mamba1.h"
#include "layers/model.h"

namespace sluice {
namespace {

/// `model.mixture_of_mamba`, or a variant of this type.
struct MixtureOfMambaConfig final : Mamba1Config {
  UntiedProjections untied{.in = true, .x = true, .dt = true, .out = true};
  void fields(FieldVisitor& v) override {
    Mamba1Config::fields(v);
    v.boolean({"untie_in", "the input projection has a copy for each modality"}, untied.in);
    v.boolean({"untie_x", "so has the projection to step sizes, B and C"}, untied.x);
    v.boolean({"untie_dt", "so has the one that widens the step sizes, with its bias"}, untied.dt);
    v.boolean({"untie_out", "so has the output projection"}, untied.out);
  }
};

}  // namespace

const MixerEntry mixture_of_mamba_mixer = {
    .name = "mixture_of_mamba",
    .symbol = kNoSymbol,
    .section = "mixture_of_mamba",
    .doc = "Mamba with projections for each modality (Mixture-of-Mamba 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MixtureOfMambaConfig>();
    },
    .check = check_mamba1,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      const auto& settings = dynamic_cast<const MixtureOfMambaConfig&>(config);
      return make_mamba1(b.child("mixture_of_mamba"), model, settings, settings.untied);
    },
    .by_modality = true,
};

}  // namespace sluice
