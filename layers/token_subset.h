#pragma once
// Some tokens of a batch as a batch of their own: layers that run on a subset of the tokens.
//
// The tokens keep their order, their documents and sequences (which may become empty), their
// positions and their ids. Letters: N tokens of the whole batch, R of the subset, D hidden size.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "autograd/ops/dispatch_combine.h"
#include "layers/context.h"

namespace sluice {

struct TokenSubset {
  SequenceLayout layout;
  std::vector<int32_t> token_ids;   // [R]; empty where those of the batch are
  std::vector<int32_t> modalities;  // the same
  DispatchPlan plan;                // of one slot per token, N slots to R rows

  /// chosen [N]: 1 for the tokens of the subset. It lives as long as the tape's nodes do.
  [[nodiscard]] static std::shared_ptr<const TokenSubset> of(const ForwardContext& whole,
                                                             std::span<const uint8_t> chosen);

  [[nodiscard]] int64_t tokens() const { return plan.token_of_row.dim(0); }
  /// The pass `whole` over these tokens only.
  [[nodiscard]] ForwardContext context(const ForwardContext& whole) const;
  /// x [N, ...] -> the rows of the subset [R, ...].
  [[nodiscard]] Tensor gather(Tape& tape, const Tensor& x) const { return dispatch(tape, x, plan); }
  /// y[n] = weight[n] * rows of token n, 0 for tokens outside: rows [R, D], weight [N, 1] -> [N, D].
  [[nodiscard]] Tensor scatter(Tape& tape, const Tensor& rows, const Tensor& weight) const {
    return combine(tape, rows, weight, plan);
  }
};

}  // namespace sluice
