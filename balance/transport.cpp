#include "balance/transport.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;
/// Added to the denominators of Megatron-LM's scaling.
constexpr double kFloor = 1e-8;
/// The least column sum that a step of the potentials is computed from: its logarithm is finite.
constexpr double kLeastMass = 1e-300;

/// Column sums [E] of row(t, scratch) over t, which fills E values per token: blocks of tokens in
/// parallel, added in block order.
template <class Row>
std::vector<double> column_sums(int64_t tokens, int64_t experts, Row&& row) {
  const int64_t blocks = ceil_div(tokens, kTokenBlock);
  std::vector<double> partial(static_cast<size_t>(blocks * experts), 0.0);
  parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    ArenaScope scratch(thread_arena());
    double* values = scratch.allocate<double>(experts);
    double* sums = partial.data() + begin / kTokenBlock * experts;
    for (int64_t t = begin; t < end; ++t) {
      row(t, values);
      for (int64_t e = 0; e < experts; ++e) sums[e] += values[e];
    }
  });
  std::vector<double> total(static_cast<size_t>(experts), 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t e = 0; e < experts; ++e) {
      total[static_cast<size_t>(e)] += partial[static_cast<size_t>(block * experts + e)];
    }
  }
  return total;
}

/// log of the column sums of exp(C / xi), without overflow.
std::vector<double> log_column_sums(std::span<const double> affinity, int64_t tokens,
                                    int64_t experts, double xi) {
  std::vector<double> greatest(static_cast<size_t>(experts),
                               -std::numeric_limits<double>::infinity());
  for (int64_t t = 0; t < tokens; ++t) {
    for (size_t e = 0; e < greatest.size(); ++e) {
      greatest[e] = std::max(greatest[e], affinity[static_cast<size_t>(t) * greatest.size() + e]);
    }
  }
  std::vector<double> sums = column_sums(tokens, experts, [&](int64_t t, double* values) {
    const double* row = affinity.data() + t * experts;
    for (int64_t e = 0; e < experts; ++e) {
      values[e] = std::exp((row[e] - greatest[static_cast<size_t>(e)]) / xi);
    }
  });
  for (size_t e = 0; e < sums.size(); ++e) sums[e] = std::log(sums[e]) + greatest[e] / xi;
  return sums;
}

}  // namespace

std::vector<double> sinkhorn_shift(std::span<const double> z, int64_t tokens, int64_t experts,
                                   const SinkhornOptions& options) {
  const double greatest = *std::max_element(z.begin(), z.end());
  std::vector<double> kernel(z.size());
  parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin * experts); i < static_cast<size_t>(end * experts);
         ++i) {
      kernel[i] = std::exp(z[i] - greatest);
    }
  });
  const double of_token = 1.0 / static_cast<double>(tokens);
  const double of_expert = 1.0 / static_cast<double>(experts);
  std::vector<double> d1(static_cast<size_t>(experts), 1.0);
  for (int64_t iteration = 0; iteration < options.max_iterations; ++iteration) {
    const std::vector<double> sums = column_sums(tokens, experts, [&](int64_t t, double* values) {
      const double* row = kernel.data() + t * experts;
      double product = 0.0;
      for (int64_t e = 0; e < experts; ++e) product += row[e] * d1[static_cast<size_t>(e)];
      const double d0 = of_token / (product + kFloor);
      for (int64_t e = 0; e < experts; ++e) values[e] = d0 * row[e];
    });
    double change = 0.0;
    for (size_t e = 0; e < d1.size(); ++e) {
      const double next = of_expert / (sums[e] + kFloor);
      change += std::abs(next - d1[e]);
      d1[e] = next;
    }
    if (change * of_expert <= options.tolerance) break;
  }
  for (double& scaling : d1) scaling = std::log(scaling);
  return d1;
}

std::vector<double> entropic_potentials(std::span<const double> affinity, int64_t tokens,
                                        int64_t experts, double xi,
                                        const SinkhornOptions& options) {
  const double share = static_cast<double>(tokens) / static_cast<double>(experts);
  std::vector<double> log_v = log_column_sums(affinity, tokens, experts, xi);
  for (double& potential : log_v) potential = std::log(share) - potential;
  for (int64_t iteration = 1; iteration < options.max_iterations; ++iteration) {
    const std::vector<double> sums = column_sums(tokens, experts, [&](int64_t t, double* values) {
      const double* row = affinity.data() + t * experts;
      double greatest = -std::numeric_limits<double>::infinity();
      for (int64_t e = 0; e < experts; ++e) {
        values[e] = row[e] / xi + log_v[static_cast<size_t>(e)];
        greatest = std::max(greatest, values[e]);
      }
      double sum = 0.0;
      for (int64_t e = 0; e < experts; ++e) sum += values[e] = std::exp(values[e] - greatest);
      for (int64_t e = 0; e < experts; ++e) values[e] /= sum;
    });
    double error = 0.0;
    for (const double sum : sums) error += std::abs(sum / share - 1.0);
    if (error / static_cast<double>(experts) < options.tolerance) break;
    // K^T u = sums / v, since u made the rows of the plan sum to 1.
    for (size_t e = 0; e < log_v.size(); ++e) {
      log_v[e] += std::log(share / std::max(sums[e], kLeastMass));
    }
  }
  return log_v;
}

}  // namespace sluice
