// Drop-Upcycling (Nakamura et al. 2025, arXiv 2502.19261): every expert is the dense feed-forward with its
// neurons in an order of its own, of which a share r, the same in all three matrices, is drawn anew from
// normal numbers with the mean and standard deviation of what stood there. Experts differ from the start,
// at the price of the dense model's function.

#include <algorithm>
#include <cmath>

#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct DropConfig final : Configurable {
  double ratio = 0.5;
  void fields(FieldVisitor& v) override {
    v.number({"ratio", "share r of each expert's neurons that is drawn anew"}, ratio,
             {.min = 0.0, .max = 1.0});
  }
};

class Drop final : public UpcyclingScheme {
 public:
  explicit Drop(const DropConfig& config) : ratio_(config.ratio) {}

  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    check_whole_experts(layer, "drop");
    const auto redrawn =
        static_cast<std::ptrdiff_t>(std::floor(ratio_ * static_cast<double>(layer.dense_width)));
    LayerNeurons plan;
    for (int64_t e = 0; e < layer.num_experts; ++e) {
      // The order is a permutation, so its first neurons are a random set.
      NeuronChoice expert{shuffled_neurons(layer, e),
                          std::vector<uint8_t>(static_cast<size_t>(layer.dense_width))};
      std::fill_n(expert.redrawn.begin(), redrawn, uint8_t{1});
      plan.experts.push_back(std::move(expert));
    }
    return plan;
  }
  [[nodiscard]] std::string departure(const UpcycledLayer& /*layer*/) const override {
    return ratio_ == 0.0 ? "" : fmt::format("{:g} of each expert's neurons are drawn anew", ratio_);
  }

 private:
  double ratio_;
};

}  // namespace

const UpcyclingEntry drop_upcycling = {
    .name = "drop",
    .doc =
        "copies of which a share of neurons is drawn anew (Nakamura et al. 2025, arXiv 2502.19261)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<DropConfig>(); },
    .make = [](const Configurable& config) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<Drop>(dynamic_cast<const DropConfig&>(config));
    },
};

}  // namespace sluice
