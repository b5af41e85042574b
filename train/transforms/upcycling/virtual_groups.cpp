// Virtual groups ("Upcycling Large Language Models into Mixture of Experts", arXiv 2410.07524, section
// 3): fine-grained experts from slices, G = F / f slices in R = E / G copies.
//
//   expert r G + g = neurons g f .. (g + 1) f - 1,   Wr[r G + g] = B[r],   B [R, D] a router's rows
//
// Experts of a group have equal logits, so that a top k = m G takes m whole groups: at the first step
// the layer is the dense feed-forward.

#include "autograd/support/error.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

struct VirtualGroupsConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

class VirtualGroups final : public UpcyclingScheme {
 public:
  [[nodiscard]] LayerNeurons choose(const UpcycledLayer& layer) const override {
    const int64_t f = layer.expert_width;
    SLUICE_CHECK(
        ConfigError, layer.dense_width % f == 0,
        "upcycle.scheme virtual_groups: model.experts.intermediate_size is {}, allowed what "
        "divides the width {} of the dense feed-forward of {}",
        f, layer.dense_width, layer.name);
    const int64_t groups = granularity(layer);
    SLUICE_CHECK(
        ConfigError, layer.num_experts % groups == 0,
        "upcycle.scheme virtual_groups: model.experts.num_experts is {}, allowed a multiple of "
        "{}: the experts that one dense feed-forward of width {} is cut into",
        layer.num_experts, groups, layer.dense_width);
    const std::vector<int32_t> all = neurons_in_order(layer.dense_width);
    LayerNeurons plan;
    for (int64_t e = 0; e < layer.num_experts; ++e) {
      const auto begin = all.begin() + e % groups * f;
      plan.experts.push_back({{begin, begin + f}, {}});
      plan.router_row.push_back(static_cast<int32_t>(e / groups));
    }
    return plan;
  }
  [[nodiscard]] std::string departure(const UpcycledLayer& layer) const override {
    const int64_t groups = granularity(layer);
    if (layer.top_k % groups == 0) return {};
    return fmt::format("top_k {} is no multiple of the {} slices, so that groups are taken in part",
                       layer.top_k, groups);
  }

 private:
  static int64_t granularity(const UpcycledLayer& layer) {
    return layer.dense_width / layer.expert_width;
  }
};

}  // namespace

const UpcyclingEntry virtual_groups_upcycling = {
    .name = "virtual_groups",
    .doc = "slices of the dense feed-forward, chosen by whole groups at first (arXiv 2410.07524)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<VirtualGroupsConfig>();
    },
    .make = [](const Configurable&) -> std::unique_ptr<UpcyclingScheme> {
      return std::make_unique<VirtualGroups>();
    },
};

}  // namespace sluice
