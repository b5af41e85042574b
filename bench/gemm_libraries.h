#pragma once
// The matrix products that are compared: our own, Eigen's and, where it was found, oneDNN's; and
// the yardstick of whole steps, the best of them at 1024^3.

#include <map>
#include <span>
#include <string>
#include <vector>

#include "autograd/kernels/gemm.h"

namespace sluice::bench {

struct GemmLibrary {
  const char* name;
  /// C = alpha op(A) op(B) + beta C on num_threads() threads.
  void (*gemm)(kernels::GemmSize, kernels::GemmOperand<float>, kernels::GemmOperand<float>,
               kernels::GemmResult<float>);
};

/// "own" first.
[[nodiscard]] std::span<const GemmLibrary> gemm_libraries();

/// FLOP/s of 1024^3 products, by library; every value one product.
class GemmRates {
 public:
  void add(const std::string& library, double rate) { rates_[library].push_back(rate); }
  void add(const GemmRates& other);
  /// Median of one library.
  [[nodiscard]] double of(const std::string& library) const;
  /// The largest median: what whole steps are measured by.
  [[nodiscard]] double best() const;

 private:
  std::map<std::string, std::vector<double>> rates_;
};

/// Products of 1024 x 1024 x 1024 by each library in turns, kProducts of each, on num_threads()
/// threads: about a tenth of a second.
class GemmYardstick {
 public:
  GemmYardstick();
  [[nodiscard]] GemmRates measure();

 private:
  static constexpr int64_t kSize = 1024;
  static constexpr int kProducts = 3;
  std::vector<float> a_, b_, c_;
};

}  // namespace sluice::bench
