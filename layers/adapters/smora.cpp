// SMoRA, single-ranked mixture of experts LoRA (2025, arXiv 2501.15103): every rank of one LoRA is an
// expert,
//
//   y = W x + s B diag(g) A x,   g: the top k of softmax(x Wg^T) as they are, over r ranks
//
// with the loss-free bias as balancer (`balance: {type: loss_free_bias}`): it moves the choice, not g.
// s = alpha / r. Ranks in blocks with one gate each are mola.

#include "layers/adapters/routed_low_rank.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct SmoraConfig final : RoutingConfig, AdapterSettings {
  SmoraConfig() : RoutingConfig({"rank", "ranks r, each of which is an expert"}) {
    num_experts = 64;
    top_k = 8.0;
    dynamic_cast<TopKRouterConfig&>(*router.config).weights = "as_is";
  }
  void fields(FieldVisitor& v) override {
    linears_field(v);
    count_fields(v);
    scale_fields(v);
    route_fields(v);
  }
  [[nodiscard]] const RoutingConfig* routing_of(int64_t, int64_t) const override { return this; }
};

class Smora final : public RoutedLowRank {
 public:
  Smora(const Builder& b, const AdapterSetup& setup, const SmoraConfig& config)
      : RoutedLowRank(b, setup, config,
                      std::vector<int64_t>(static_cast<size_t>(config.num_experts), 1),
                      config.scale(config.num_experts)) {}
};

}  // namespace

const AdapterEntry smora_adapter = {
    .name = "smora",
    .doc = "a LoRA whose ranks are experts with a router (SMoRA 2025, arXiv 2501.15103)",
    .make_config = make_adapter_config<SmoraConfig>,
    .make = make_adapter<Smora, SmoraConfig>,
};

}  // namespace sluice
