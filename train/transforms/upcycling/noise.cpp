// Copies with noise (the random-noise baseline of Drop-Upcycling, arXiv 2502.19261, and Qwen2-MoE's way
// of setting copies apart): normal numbers are added to a share of the elements of every expert.

#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct NoiseConfig final : Configurable {
  double std = 0.02;
  double share = 0.5;
  void fields(FieldVisitor& v) override {
    v.number({"std", "standard deviation of what is added"}, std, {.min = 0.0});
    v.number({"share", "share of the elements that it is added to"}, share,
             {.min = 0.0, .max = 1.0});
  }
};

class Noise final : public UpcyclingScheme {
 public:
  explicit Noise(const NoiseConfig& config) : std_(config.std), share_(config.share) {}

  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    LayerNeurons plan = whole_copies(layer, "noise");
    plan.noise = std_;
    plan.noise_share = share_;
    return plan;
  }
  [[nodiscard]] std::string departure(const UpcycledLayer& /*layer*/) const override {
    if (std_ == 0.0 || share_ == 0.0) return {};
    return fmt::format("noise of {:g} is added to {:g} of the elements", std_, share_);
  }

 private:
  double std_;
  double share_;
};

}  // namespace

const UpcyclingEntry noise_upcycling = {
    .name = "noise",
    .doc = "copies with noise on a share of their elements (in arXiv 2502.19261)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<NoiseConfig>();
    },
    .make = [](const Configurable& config) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<Noise>(dynamic_cast<const NoiseConfig&>(config));
    },
};

}  // namespace sluice
