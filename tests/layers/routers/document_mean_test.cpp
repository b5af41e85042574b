#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class DocumentMean : public testing::RouterFixture {
 protected:
  void lay_out_two_documents() {
    layout_ = SequenceLayout::single(pool_, 5);
    layout_.document_offsets = {0, 3, 5};
    layout_.document_domains = {0, 0};
  }
  // With the identity as weight the logits are the means.
  [[nodiscard]] Tensor tokens() {
    return rows({3.0, 0.0, 0.0, 2.0, 0.0, 7.0, 4.0, 1.0, -2.0, 2.0}, 2);
  }
};

TEST_F(DocumentMean, ReadsTheMeanOfTheDocumentSoFar) {
  make_of_logits("document_mean", nlohmann::json::object(), {.experts = 2, .top_k = 1});
  lay_out_two_documents();
  const std::vector<double> expected{3.0, 0.0, 1.5, 1.0, 1.0, 3.0, 4.0, 1.0, 1.0, 1.5};
  for (const bool training : {true, false}) {
    const testing::Routed routed = route(tokens(), 1, {.training = training});
    const auto logits = testing::numbers(routed.scores.logits);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(logits[i], expected[i], 1e-12) << i;
    EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 0, 1, 0, 1}));
  }
}

TEST_F(DocumentMean, OverTheDocumentGivesAllItsTokensTheSameExperts) {
  make_of_logits("document_mean", {{"over", "document"}}, {.experts = 2, .top_k = 1});
  lay_out_two_documents();
  const testing::Routed trained = route(tokens(), 1, {.training = true});
  EXPECT_EQ(trained.selection.expert, (std::vector<int32_t>{1, 1, 1, 1, 1}));
  const auto logits = testing::numbers(trained.scores.logits);
  for (size_t t = 0; t < 5; ++t) {
    EXPECT_NEAR(logits[2 * t], 1.0, 1e-12);
    EXPECT_NEAR(logits[2 * t + 1], t < 3 ? 3.0 : 1.5, 1e-12);
  }
  EXPECT_EQ(route(tokens(), 1).selection.expert, (std::vector<int32_t>{0, 0, 1, 0, 1}));
  expect_gradient(tokens(), 1, {.training = true});
}

TEST_F(DocumentMean, SaysThatItLooksAhead) {
  const auto looks_ahead = [](const nlohmann::json& options) {
    const auto config = router_registry().at("document_mean").make_config();
    testing::set_fields(*config, options);
    return dynamic_cast<const RouterConfig&>(*config).looks_ahead();
  };
  EXPECT_FALSE(looks_ahead(nlohmann::json::object()));
  EXPECT_TRUE(looks_ahead({{"over", "document"}}));
}

}  // namespace
}  // namespace sluice
