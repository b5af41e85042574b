#include <algorithm>

#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

constexpr int32_t kNone = kNoExpert;

class DocumentShare : public testing::RouterFixture {
 protected:
  void lay_out(const std::vector<int64_t>& documents) {
    layout_ = SequenceLayout::single(pool_, documents.back());
    layout_.document_offsets = documents;
    layout_.document_domains.assign(documents.size() - 1, 0);
  }
  [[nodiscard]] static int64_t taken_by(const Selection& selection, int32_t expert, int64_t begin,
                                        int64_t end) {
    const auto slots = selection.expert.begin();
    return std::count(slots + begin * selection.top_k, slots + end * selection.top_k, expert);
  }
};

TEST_F(DocumentShare, TakesTheTokensThatRankHighestAmongThoseSoFar) {
  make_of_logits("document_share", nlohmann::json::object(), {.experts = 2, .top_k = 1});
  lay_out({0, 4, 5});
  // First column 1, 2, 0, 3 | -1; the second is its opposite, as two scores of a softmax are.
  const Tensor x = rows({1.0, -1.0, 2.0, -2.0, 0.0, 0.0, 3.0, -3.0, -1.0, 1.0}, 2);
  // Expert 0 has room for 1, 1, 2, 2: token 0 is first of 1, token 1 first of 2, token 2 third of 3, token 3
  // first of 4. Expert 1: first of 1; second of 2; first of 3; fourth of 4.
  const std::vector<int32_t> expected{0, 1, 0, kNone, 1, kNone, 0, kNone, 1, 0};
  for (const bool training : {true, false}) {
    EXPECT_EQ(route(x, 1, {.training = training}).selection.expert, expected);
  }
}

TEST_F(DocumentShare, OverTheDocumentEveryExpertTakesItsShare) {
  make_of_logits("document_share", {{"over", "document"}}, {.experts = 4, .top_k = 2});
  lay_out({0, 20, 31});
  const Selection selection = route(random_rows(31, 4), 2, {.training = true}).selection;
  for (int32_t e = 0; e < 4; ++e) {
    EXPECT_EQ(taken_by(selection, e, 0, 20), 10);
    EXPECT_EQ(taken_by(selection, e, 20, 31), 6);  // ceil(11 / 2)
  }
  // Evaluated by prefix, the first token is everybody's.
  EXPECT_EQ(taken_by(route(random_rows(31, 4), 2).selection, 3, 0, 1), 1);
}

TEST_F(DocumentShare, ByPrefixTakesItsShareOfTokensInRandomOrder) {
  make_of_logits("document_share", nlohmann::json::object(), {.experts = 8, .top_k = 2});
  lay_out({0, 4000});
  const Selection selection = route(random_rows(4000, 8), 2).selection;
  for (int32_t e = 0; e < 8; ++e) {
    // A quarter of them, each by chance: four standard deviations are 110.
    EXPECT_NEAR(static_cast<double>(taken_by(selection, e, 0, 4000)), 1000.0, 110.0) << e;
  }
}

TEST_F(DocumentShare, WithAllExpertsEveryTokenHasThemAll) {
  make_of_logits("document_share", nlohmann::json::object(), {.experts = 4, .top_k = 4});
  lay_out({0, 9});
  const Selection selection = route(random_rows(9, 4), 4).selection;
  EXPECT_EQ(std::ranges::count(selection.expert, kNone), 0);
}

TEST_F(DocumentShare, RefusesWeightsOfAFixedNumberOfExperts) {
  const auto config = router_registry().at("document_share").make_config();
  testing::set_fields(*config, {{"weights", "renormalise"}});
  EXPECT_EQ(config->check(),
            "weights: found renormalise, allowed as_is or straight_through (a token may have no "
            "expert)");
}

}  // namespace
}  // namespace sluice
