#pragma once
// A Mixture-of-Experts model as one feed-forward and low-rank experts beside it: FlexMoRE (Pirchert et al.
// 2026, arXiv 2602.08818).
//
//   W_e ~ W_p + B_e A_e,   W_e - W_p = U S V^T,  B_e = U_r S_r^(1/2),  A_e = S_r^(1/2) V_r^T
//
// for each of an expert's three matrices, p the public expert, r a rank of each expert's own. Experts (E)
// become layers mixlora; router and balancers stay. Of full rank the model is the same, and
// r (D + F) parameters of a matrix stand for D F.

#include <cstdint>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace sluice {

struct ExtractOptions {
  /// Of each expert, or one for all but the public one, which has none.
  std::vector<int64_t> ranks;
  int64_t public_expert = 0;
};

struct ExtractedModel {
  /// Weights, balancers' state and recipe: to evaluate, sample from or start a run from.
  Checkpoint checkpoint;
  double relative_error = 0;  // |rest| / |W_e - W_p| over all matrices
  int64_t parameters_before = 0;
  int64_t parameters_after = 0;
};

/// `source` (a file name) stands in messages. Throws ConfigError when the model has no layer of experts
/// whose form this can take, or ranks do not fit.
[[nodiscard]] ExtractedModel extract_adapters(const Checkpoint& checkpoint,
                                              const std::string& source,
                                              const ExtractOptions& options);

}  // namespace sluice
