#pragma once
// How much the neurons of a model's dense feed-forwards matter on text of each domain:
//
//   v_i = mean over tokens of |h_i dL/dh_i|,   h = silu(Wg x) * (Wu x)
//
// the first-order estimate of what the loss would change without neuron i (LLaMA-MoE, Zhu et al. 2024,
// arXiv 2406.16554, "sharing" splits). L is the mean cross-entropy of a batch; each domain's mean is over
// its own tokens.

#include <cstdint>
#include <map>
#include <vector>

#include "train/transforms/upcycle.h"

namespace sluice {

class NeuronImportance {
 public:
  /// Of job.before, on the first training tokens of job.data. `job` outlives it.
  explicit NeuronImportance(const UpcycleJob& job) : job_(job) {}

  /// [domains with tokens][F] of the dense feed-forward of a sublayer, on at least `tokens` tokens;
  /// measured for all layers when it is first asked for. Throws ConfigError when the sublayer is no dense
  /// SwiGLU.
  [[nodiscard]] const std::vector<std::vector<double>>& of(int64_t sublayer, int64_t tokens);

 private:
  void measure(int64_t tokens);

  const UpcycleJob& job_;
  int64_t measured_ = 0;  // tokens
  std::map<int64_t, std::vector<std::vector<double>>> importance_;  // by sublayer
};

}  // namespace sluice
