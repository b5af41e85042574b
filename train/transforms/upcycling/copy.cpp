// Sparse upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055): every expert is the dense feed-forward.
//
// Experts start equal; what sets them apart is the router, and with weights that sum to 1 the router has
// no gradient from the language model's loss before they differ.

#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct CopyConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

class Copy final : public UpcyclingScheme {
 public:
  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    return whole_copies(layer, "copy");
  }
  [[nodiscard]] std::string departure(const UpcycledLayer& /*layer*/) const override { return {}; }
};

}  // namespace

const UpcyclingEntry copy_upcycling = {
    .name = "copy",
    .doc = "every expert is the dense feed-forward (Komatsuzaki et al. 2022, arXiv 2212.05055)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<CopyConfig>(); },
    .make = [](const Configurable&) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<Copy>();
    },
};

}  // namespace sluice
