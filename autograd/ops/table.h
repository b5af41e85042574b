#pragma once
// Every op of the library, from ops.def. Being in this table enrols an op in the gradient check,
// the contract tests and the benchmarks; `autograd/ops/<file>.cpp` without a line there fails a
// test.

#include <span>
#include <string_view>

#include "autograd/core/op_info.h"

namespace sluice {

struct OpEntry {
  std::string_view name;  // of the function, e.g. "matmul"
  std::string_view file;  // stem of its source in autograd/ops
  const OpInfo& (*info)();
};

/// All ops, in the order of ops.def.
[[nodiscard]] std::span<const OpEntry> op_table();

}  // namespace sluice
