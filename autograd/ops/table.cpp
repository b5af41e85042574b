#include "autograd/ops/table.h"

#include "autograd/support/registry.h"

namespace sluice {

#define SLUICE_OP(op, file) const OpInfo& op##_info();
#include "autograd/ops/ops.def"
#undef SLUICE_OP

namespace {

#define SLUICE_OP(op, file) OpEntry{#op, #file, &op##_info},
constexpr OpEntry kOps[] = {
#include "autograd/ops/ops.def"
};
#undef SLUICE_OP

#define SLUICE_OP(op, file) #op,
constexpr std::string_view kNames[] = {
#include "autograd/ops/ops.def"
};
#undef SLUICE_OP
static_assert(all_distinct(kNames), "two lines of ops.def have the same name");

}  // namespace

std::span<const OpEntry> op_table() { return kOps; }

}  // namespace sluice
