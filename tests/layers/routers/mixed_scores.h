#pragma once
// Scores mixed over earlier tokens, as plain loops, and a fixture for the routers that do it.

#include "tests/layers/model_gradients.h"
#include "tests/layers/routers/routed.h"

namespace sluice::testing {

/// Rows of the causal softmax of scores(t, j), inside documents.
template <class Scores>
std::vector<double> mixed(const std::vector<double>& p, size_t experts,
                          const std::vector<int64_t>& documents, Scores&& scores) {
  std::vector<double> result(p.size(), 0.0);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    for (int64_t t = documents[d]; t < documents[d + 1]; ++t) {
      double total = 0.0;
      for (int64_t j = documents[d]; j <= t; ++j) total += std::exp(scores(t, j));
      for (int64_t j = documents[d]; j <= t; ++j) {
        for (size_t e = 0; e < experts; ++e) {
          result[static_cast<size_t>(t) * experts + e] +=
              std::exp(scores(t, j)) / total * p[static_cast<size_t>(j) * experts + e];
        }
      }
    }
  }
  return result;
}

/// A small model with this router.
inline ModelConfig model_with(const std::string& pattern, const std::string& type,
                              const nlohmann::json& options) {
  ModelConfig config = testing_support::tiny_config(pattern, "f64");
  auto router = std::shared_ptr<Configurable>(router_registry().at(type).make_config());
  set_fields(*router, options);
  testing_support::experts_of(config).router = {type, router};
  return config;
}

class MixedScores : public RouterFixture {
 protected:
  [[nodiscard]] std::vector<double> scores_of(const std::string& type,
                                              const nlohmann::json& options, const Tensor& x,
                                              int64_t experts) {
    make(type, options, {.experts = experts, .hidden_size = x.dim(1)});
    return numbers(route(x, 2).scores.scores);
  }
  void two_documents(int64_t first, int64_t second) {
    layout_ = SequenceLayout::single(pool_, first + second);
    layout_.document_offsets = {0, first, first + second};
    layout_.document_domains = {0, 0};
  }
  static void expect_near(const std::vector<double>& a, const std::vector<double>& b,
                          double tolerance = 1e-12) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance) << i;
  }
};

}  // namespace sluice::testing
