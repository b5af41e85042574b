// Copies of which a share of the elements starts at zero, others in each expert: how EvoMoE (Nie et al.
// 2021, arXiv 2112.14397) sets experts apart that were one. With a dense-to-sparse router and the dense
// model in the place of its first phase, that is its second phase; where the first phase is to be part of
// the run, `model.experts.diversify` does both. The share is reconstructed (0.1 to 0.2).

#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct MaskConfig final : Configurable {
  double share = 0.1;
  void fields(FieldVisitor& v) override {
    v.number({"share", "share of each expert's elements that start at zero"}, share,
             {.min = 0.0, .max = 1.0});
  }
};

class Mask final : public UpcyclingScheme {
 public:
  explicit Mask(const MaskConfig& config) : share_(config.share) {}

  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    LayerNeurons plan = whole_copies(layer, "mask");
    plan.masked_share = share_;
    return plan;
  }
  [[nodiscard]] std::string departure(const UpcycledLayer& /*layer*/) const override {
    return share_ == 0.0 ? "" : fmt::format("{:g} of each expert's elements start at zero", share_);
  }

 private:
  double share_;
};

}  // namespace

const UpcyclingEntry mask_upcycling = {
    .name = "mask",
    .doc = "copies of which a share of the elements starts at zero (EvoMoE, arXiv 2112.14397)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<MaskConfig>(); },
    .make = [](const Configurable& config) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<Mask>(dynamic_cast<const MaskConfig&>(config));
    },
};

}  // namespace sluice
