#pragma once
// What an op says about itself. Tests, benchmarks and the profiler read it; `ops.def` lists every
// one.

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/tensor.h"
#include "autograd/support/rng.h"

namespace sluice {

class Tape;

/// Makes the tensors of samples: the same numbers for every dtype, so that f32 can be compared with
/// f64.
class SampleFactory {
 public:
  SampleFactory(Pool& pool, DType dtype, uint64_t seed = 1)
      : pool_(pool), dtype_(dtype), seed_(seed) {}

  /// Uniform numbers in [low, high), different for every call, of the factory's dtype.
  [[nodiscard]] Tensor uniform(const Shape& shape, double low = -1.0, double high = 1.0);
  [[nodiscard]] Tensor values(const Shape& shape, const std::vector<double>& numbers);
  [[nodiscard]] Tensor integers(const Shape& shape, const std::vector<int32_t>& numbers);
  /// Uniform i32 in [0, bound).
  [[nodiscard]] Tensor random_integers(const Shape& shape, int32_t bound);
  [[nodiscard]] Pool& pool() const { return pool_; }
  [[nodiscard]] DType dtype() const { return dtype_; }

 private:
  Pool& pool_;
  DType dtype_;
  uint64_t seed_;
  uint64_t calls_ = 0;
};

/// One way to call an op: the gradient check, the contract tests and the misuse tests run it.
struct OpSample {
  std::string label;
  std::vector<Tensor> inputs;
  /// Per input: is the output differentiable in it? (i32 inputs are not.)
  std::vector<bool> differentiable;
  /// Calls the op; returns its floating outputs that carry gradients.
  std::function<std::vector<Tensor>(Tape&, std::span<const Tensor>)> apply;
  /// Set when outputs jump with the inputs (dropout masks, top-k near ties), so that f32 and f64
  /// may differ.
  bool compare_dtypes = true;
};

struct OpInfo {
  std::string_view name;
  /// The forward equation with shapes: "y[n, f] = sum_d x[n, d] w[f, d]".
  std::string_view equation;
  /// Calls that must work and whose gradients are checked; never empty for a registered op.
  std::vector<OpSample> (*samples)(SampleFactory&);
  /// Calls that must throw ShapeError.
  std::vector<OpSample> (*misuses)(SampleFactory&);
};

}  // namespace sluice
