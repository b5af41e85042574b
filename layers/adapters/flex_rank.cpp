// Experts of mixed ranks beside a public model: FlexMoRE (Pirchert et al. 2026, arXiv 2602.08818) on one
// linear map. Expert e has rank r_e and the scale alpha / r_e; rank 0 is the public model itself. A whole
// feed-forward with one router is the layer mixlora with `ranks`.

#include <algorithm>

#include "layers/adapters/routed_low_rank.h"

namespace sluice {
namespace {

struct FlexRankConfig final : RoutingConfig, AdapterSettings {
  std::vector<int64_t> ranks = {2, 4, 8, 16};

  FlexRankConfig() : RoutingConfig({"ranks", "rank of each expert"}) { count(); }
  void fields(FieldVisitor& v) override {
    linears_field(v);
    v.integers({"ranks", "rank of each expert; 0 is the model without adapters"}, ranks,
               {.min = 0, .max = 65536});
    scale_fields(v);
    v.scheduled({"top_k", "experts per token k"}, top_k, {.min = 1.0});
    route_fields(v);
    count();
  }
  [[nodiscard]] std::string check() const override {
    if (std::ranges::all_of(ranks, [](int64_t r) { return r == 0; })) {
      return "ranks: found no rank above 0, allowed one or more";
    }
    return RoutingConfig::check();
  }
  [[nodiscard]] const RoutingConfig* routing_of(int64_t, int64_t) const override { return this; }
  [[nodiscard]] std::vector<double> scales() const {
    std::vector<double> result;
    for (const int64_t r : ranks) result.push_back(r == 0 ? 0.0 : scale(r));
    return result;
  }

 private:
  void count() { num_experts = std::max<int64_t>(1, std::ssize(ranks)); }
};

class FlexRank final : public RoutedLowRank {
 public:
  FlexRank(const Builder& b, const AdapterSetup& setup, const FlexRankConfig& config)
      : RoutedLowRank(b, setup, config, config.ranks, 1.0, config.scales()) {}
};

}  // namespace

const AdapterEntry flex_rank_adapter = {
    .name = "flex_rank",
    .doc = "LoRA experts of different ranks with a router (FlexMoRE; Pirchert et al. 2026, arXiv "
           "2602.08818)",
    .make_config = make_adapter_config<FlexRankConfig>,
    .make = make_adapter<FlexRank, FlexRankConfig>,
};

}  // namespace sluice
