// No balancing: the router's own choice, no loss, no state.

#include "balance/method.h"

namespace sluice {
namespace {

struct NoneConfig final : Configurable {
  void fields(FieldVisitor& /*visitor*/) override {}
};

class None final : public Balancer {
 public:
  None(const NoneConfig& /*config*/, const BalancerSetup& /*setup*/) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }
};

}  // namespace

const BalancerEntry none_balancer = {
    .name = "none",
    .doc = "no balancing: the baseline of every paper",
    .make_config = make_balancer_config<NoneConfig>,
    .make = make_balancer_method<None, NoneConfig>,
};

}  // namespace sluice
