#pragma once
// Every balancing method, router, kind of layer, form of experts, adapter and way of adaptive depth in a
// run of tiny_recipe(), one at a time.

#include <ostream>
#include <string>
#include <vector>

namespace sluice::testing {

struct MethodInARun {
  std::string name;     // "balance_bip", "router_top_p", "layer_mamba2"
  std::string changes;  // on top of tiny_recipe()
  friend void PrintTo(const MethodInARun& method, std::ostream* out) { *out << method.name; }
};

/// Sequences of 32 tokens with documents of uneven length, in two micro-batches.
[[nodiscard]] std::vector<MethodInARun> methods_in_runs();

}  // namespace sluice::testing
