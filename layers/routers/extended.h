#pragma once
// The router of a model that experts were added to (MoExtend, Zhong et al. 2024, arXiv 2408.03511):
//
//   p = softmax(x W^T),   top-k of p,   c = p + A2 gelu(A1 p),   weights: c of the chosen over their sum
//
// The calibration A1 [16, E], A2 [E, 16] corrects the weights for the rows that came in; A2 is 0 at
// first, where c = p. Renormalising needs weights: renormalise; with as_is the weights are c.
//
// The row of a new expert starts as that of the expert it was cloned from (`upcycle.scheme: extend`),
// so the two tie, and for tokens that choose them the clone takes the place of their k-th expert: the
// paper's way, which does not keep the function. `masked` keeps it: up to that point of the run the
// newest `num_new` experts have score 0 and are not chosen, and the softmax is over the others [R].
//
// Letters: N tokens, E experts.

#include <optional>
#include <string>

#include "layers/routers/top_k.h"

namespace sluice {

struct ExtendedConfig final : TopKRouterConfig {
  int64_t num_new = 1;
  int64_t calibration = 16;
  std::optional<Duration> masked;

  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override;
  /// The new experts are not chosen at this point of the run.
  [[nodiscard]] bool masks(const Progress& progress) const {
    return masked && masked->elapsed(progress) < masked->count;
  }
};

}  // namespace sluice
