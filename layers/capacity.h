#pragma once
// Expert capacity and token dropping (routing-and-balance: GShard, Switch, Megatron).
//
// Each expert takes at most expert_capacity() = ceil(factor * N k / E) assignments of a micro-batch; the others are
// dropped: weight 0, expert not run, the other weights of the token unchanged. Batch-dependent: who
// is dropped depends on the neighbours.

#include <cstdint>
#include <span>
#include <string_view>

#include "layers/routing.h"

namespace sluice {

enum class DropPolicy : uint8_t {
  position,  // all first choices before any second choice, tokens in order
  weight,    // the largest combine weights stay; ties: lower token
};

/// Fills selection.dispatched and selection.dropped (of counted tokens). `weights` [N, k] is read
/// by DropPolicy::weight only.
void apply_capacity(Selection& selection, int64_t capacity, DropPolicy policy,
                    std::span<const double> weights, std::span<const uint8_t> counted);

}  // namespace sluice
