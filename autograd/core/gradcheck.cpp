#include "autograd/core/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice {
namespace {

constexpr uint64_t kWeightSeed = 7;

/// The fixed random weights of one output.
Tensor output_weights(Pool& pool, const Tensor& output, size_t index, uint64_t seed) {
  const RandomKey key{seed, RandomPurpose::test, 0, index};
  Tensor weights = Tensor::empty(pool, output.shape(), output.dtype());
  dispatch_float(output.dtype(), [&]<class T>() {
    T* data = weights.data<T>();
    for (int64_t i = 0; i < weights.numel(); ++i) {
      data[i] = static_cast<T>(2.0 * uniform(key, 1, static_cast<uint64_t>(i)) - 1.0);
    }
  });
  return weights;
}

/// <weights, outputs> without recording.
double contracted(Pool& pool, const OpSample& sample) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const std::vector<Tensor> outputs = sample.apply(tape, sample.inputs);
  double total = 0.0;
  for (size_t o = 0; o < outputs.size(); ++o) {
    const Tensor weights = output_weights(pool, outputs[o], o, kWeightSeed);
    for (int64_t i = 0; i < outputs[o].numel(); ++i) {
      total += weights.data<double>()[i] * outputs[o].data<double>()[i];
    }
  }
  return total;
}

}  // namespace

std::vector<Tensor> weighted_gradients(Pool& pool, const OpSample& sample, uint64_t seed) {
  Tape tape(pool);
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    inputs.push_back(sample.differentiable[i] ? tape.input(sample.inputs[i]) : sample.inputs[i]);
  }
  const std::vector<Tensor> outputs = sample.apply(tape, inputs);
  std::vector<Tensor> weights;
  for (size_t o = 0; o < outputs.size(); ++o) {
    weights.push_back(output_weights(pool, outputs[o], o, seed));
  }
  tape.backward(outputs, weights);
  std::vector<Tensor> gradients(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!sample.differentiable[i]) continue;
    gradients[i] = tape.gradient(inputs[i]);
    if (!gradients[i].defined()) {
      gradients[i] = Tensor::zeros(pool, inputs[i].shape(), inputs[i].dtype());
    }
  }
  return gradients;
}

GradcheckReport gradcheck(Pool& pool, const OpSample& sample, const GradcheckOptions& options) {
  GradcheckReport report;
  const std::vector<Tensor> gradients = weighted_gradients(pool, sample, kWeightSeed);
  // The sample's own tensors are nudged and put back; a private copy keeps the caller's intact.
  OpSample probe = sample;
  for (Tensor& input : probe.inputs) input = input.clone(pool);
  for (size_t input = 0; input < probe.inputs.size(); ++input) {
    if (!sample.differentiable[input]) continue;
    double* x = probe.inputs[input].data<double>();
    const double* analytic = gradients[input].data<double>();
    const int64_t count = probe.inputs[input].numel();
    const int64_t stride = std::max<int64_t>(1, count / options.max_elements);
    std::vector<std::pair<int64_t, double>> numeric;
    double scale = 0.0;
    for (int64_t i = 0; i < count; i += stride) {
      const double original = x[i];
      const double step = options.step * std::max(1.0, std::abs(original));
      x[i] = original + step;
      const double above = contracted(pool, probe);
      x[i] = original - step;
      const double below = contracted(pool, probe);
      x[i] = original;
      numeric.emplace_back(i, (above - below) / (2.0 * step));
      scale = std::max(scale, std::abs(numeric.back().second));
    }
    for (const auto& [i, expected] : numeric) {
      const double size = std::max({std::abs(analytic[i]), std::abs(expected), scale});
      const double tolerance = options.absolute_tolerance + options.relative_tolerance * size;
      double error = std::abs(analytic[i] - expected) / tolerance;
      if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
      if (error > report.worst_error) {
        report.worst_error = error;
        report.message = fmt::format("{}: input {} element {}: analytic {:.12g}, numeric {:.12g}",
                                     sample.label, input, i, analytic[i], expected);
      }
    }
  }
  report.passed = report.worst_error <= 1.0;
  return report;
}

}  // namespace sluice
