#include "layers/product_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/layers/ffns/layer_run.h"

namespace sluice {
namespace {

using testing_support::LayerRun;

constexpr int64_t kHidden = 12;

const Parameter& parameter_of(const Module& module, const std::string& name) {
  for (const Parameter* parameter : module.parameters()) {
    if (parameter->name.ends_with(name)) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

/// <codebook key a of a half, query half> of one token, from the parameters.
double score(const Module& keys, const ProductKeysSpec& spec, const double* x, int64_t half,
             int64_t key) {
  const double* query = parameter_of(keys, "w_query").value.data<double>();
  const double* books = parameter_of(keys, "codebooks").value.data<double>();
  double sum = 0.0;
  for (int64_t c = 0; c < spec.key_size; ++c) {
    double q = 0.0;
    for (int64_t d = 0; d < kHidden; ++d) {
      q += query[(half * spec.key_size + c) * kHidden + d] * x[d];
    }
    sum += q * books[(half * spec.num_keys + key) * spec.key_size + c];
  }
  return sum;
}

TEST(ProductKeys, FindTheBestOfAllPairs) {
  Pool pool;
  InitConfig init;
  init.std = 0.5;
  const ProductKeysSpec spec{.hidden_size = kHidden,
                             .num_heads = 2,
                             .num_keys = 16,
                             .key_size = 5,
                             .top_k = 7,
                             .normalise_queries = false};
  const ProductKeys keys(Builder(pool, DType::f64, 3, init, 1), spec, 1e-5);
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 9);
  const ForwardContext context{tape, layout};
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({9, kHidden}, -1.0, 1.0);
  const FoundEntries found = keys.find(context, x);
  for (int64_t n = 0; n < 9; ++n) {
    for (int64_t head = 0; head < 2; ++head) {
      std::vector<double> all;
      for (int64_t a = 0; a < 16; ++a) {
        for (int64_t b = 0; b < 16; ++b) {
          const double* row = x.data<double>() + n * kHidden;
          all.push_back(score(keys, spec, row, 2 * head, a) +
                        score(keys, spec, row, 2 * head + 1, b));
        }
      }
      std::vector<int32_t> order(all.size());
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, std::greater{},
                               [&](int32_t i) { return all[static_cast<size_t>(i)]; });
      for (int64_t j = 0; j < 7; ++j) {
        const int64_t at = (n * 2 + head) * 7 + j;
        EXPECT_EQ(found.ids.data<int32_t>()[at], order[static_cast<size_t>(j)]) << n << " " << j;
        EXPECT_NEAR(found.scores.data<double>()[at],
                    all[static_cast<size_t>(order[static_cast<size_t>(j)])], 1e-12);
      }
    }
  }
}

TEST(ProductKeyMemory, WithAllEntriesIsASoftmaxOverTheTable) {
  LayerRun memory("product_key_memory",
                  {{"num_keys", 3},
                   {"num_heads", 1},
                   {"key_size", 4},
                   {"top_k", 3},
                   {"normalise_queries", false}},
                  kHidden);
  const Tensor x = memory.tokens(1);
  const auto y = memory.run(x);
  const ProductKeysSpec spec{kHidden, 1, 3, 4, 3, false};
  std::vector<std::pair<double, int64_t>> entries;
  for (int64_t a = 0; a < 3; ++a) {
    for (int64_t b = 0; b < 3; ++b) {
      entries.emplace_back(score(memory.layer(), spec, x.data<double>(), 0, a) +
                               score(memory.layer(), spec, x.data<double>(), 1, b),
                           a * 3 + b);
    }
  }
  std::ranges::sort(entries, std::greater{});
  entries.resize(3);
  double total = 0.0;
  for (const auto& [value, id] : entries) total += std::exp(value);
  const double* values = parameter_of(memory.layer(), "values").value.data<double>();
  for (int64_t d = 0; d < kHidden; ++d) {
    double expected = 0.0;
    for (const auto& [value, id] : entries) {
      expected += std::exp(value) / total * values[id * kHidden + d];
    }
    EXPECT_NEAR(y[static_cast<size_t>(d)], expected, 1e-12);
  }
}

TEST(Peer, IsAnMlpPutTogetherForTheToken) {
  LayerRun peer("peer", {{"num_keys", 4}, {"num_heads", 2}, {"key_size", 3}, {"top_k", 2}},
                kHidden);
  const Tensor x = peer.tokens(3);
  const auto y = peer.run(x);
  const ProductKeysSpec spec{kHidden, 2, 4, 3, 2, false};
  const double* up = parameter_of(peer.layer(), "w_up").value.data<double>();
  const double* down = parameter_of(peer.layer(), "w_down").value.data<double>();
  for (int64_t n = 0; n < 3; ++n) {
    const double* row = x.data<double>() + n * kHidden;
    std::vector<double> expected(kHidden, 0.0);
    for (int64_t head = 0; head < 2; ++head) {
      std::vector<std::pair<double, int64_t>> entries;
      for (int64_t id = 0; id < 16; ++id) {
        entries.emplace_back(score(peer.layer(), spec, row, 2 * head, id / 4) +
                                 score(peer.layer(), spec, row, 2 * head + 1, id % 4),
                             id);
      }
      std::ranges::sort(entries, std::greater{});
      const double total = std::exp(entries[0].first) + std::exp(entries[1].first);
      for (int64_t j = 0; j < 2; ++j) {
        const auto& [value, id] = entries[static_cast<size_t>(j)];
        double z = 0.0;
        for (int64_t d = 0; d < kHidden; ++d) z += up[id * kHidden + d] * row[d];
        const double inner = std::sqrt(2.0 / M_PI) * (z + 0.044715 * z * z * z);
        const double gelu = 0.5 * z * (1.0 + std::tanh(inner));
        for (int64_t d = 0; d < kHidden; ++d) {
          expected[static_cast<size_t>(d)] +=
              std::exp(value) / total * gelu * down[id * kHidden + d];
        }
      }
    }
    for (int64_t d = 0; d < kHidden; ++d) {
      EXPECT_NEAR(y[static_cast<size_t>(n * kHidden + d)], expected[static_cast<size_t>(d)], 1e-11);
    }
  }
}

}  // namespace
}  // namespace sluice
