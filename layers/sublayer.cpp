#include "layers/sublayer.h"

#include <algorithm>

namespace sluice {

std::vector<Parameter*> SublayerBody::routed_only(std::vector<Parameter*> parameters) {
  std::erase_if(parameters, [](const Parameter* parameter) {
    return parameter->stack != Stack::routed_experts;
  });
  return parameters;
}

Experts* ExpertPools::join(const Configurable& section, std::optional<int64_t> most) {
  const auto pool = std::ranges::find(pools_, &section, &OpenPool::section);
  if (pool == pools_.end()) return nullptr;
  if (most && pool->members >= *most) {
    pools_.erase(pool);
    return nullptr;
  }
  ++pool->members;
  return pool->experts;
}

void ExpertPools::open(const Configurable& section, Experts& experts) {
  pools_.push_back({&section, &experts, 1});
}

bool SharedGates::join(const Configurable& section, int64_t most) {
  if (section_ == &section && members_ < most) {
    ++members_;
    return true;
  }
  section_ = &section;
  members_ = 1;
  return false;
}

}  // namespace sluice
