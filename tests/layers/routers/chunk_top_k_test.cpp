#include "layers/routers/top_k.h"
#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class ChunkTopK : public testing::RouterFixture {
 protected:
  void lay_out(const std::vector<int64_t>& documents) {
    layout_ = SequenceLayout::single(pool_, documents.back());
    layout_.document_offsets = documents;
    layout_.document_domains.assign(documents.size() - 1, 0);
  }
  [[nodiscard]] static std::vector<double> row(const Tensor& x, int64_t t) {
    const std::vector<double> values = testing::numbers(x);
    const auto begin = values.begin() + t * x.dim(1);
    return {begin, begin + x.dim(1)};
  }
};

TEST_F(ChunkTopK, RoutesAChunkByTheMeanOfTheOneBefore) {
  make_of_logits("chunk_top_k", {{"chunk_size", 2}}, Setup{});
  set("first_chunk", {.0, .0, 3.0, 2.0});
  // Means (1, 2, 0, 0) and (0, 0, 0, 4): the logits of the second and the third chunk.
  const auto routed = route(
      rows({2.0, 0.0, 0, 0, 0.0, 4.0, 0, 0, 0, 0, 0, 1.0, 0, 0, 0, 7.0, 9.0, 9.0, 9.0, 9.0}, 4), 2);
  EXPECT_EQ(testing::numbers(routed.scores.logits),
            (std::vector<double>{0, 0, 3, 2, 0, 0, 3, 2, 1, 2, 0, 0, 1, 2, 0, 0, 0, 0, 0, 4}));
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{2, 3, 2, 3, 1, 0, 1, 0, 3, 0}));
  // Renormalised: e / (1 + e) and 1 / (1 + e) where the two logits are one apart.
  const double greater = std::exp(1.0) / (1.0 + std::exp(1.0));
  for (const size_t t : {0, 1, 2, 3}) {
    EXPECT_NEAR(routed.weights[2 * t], greater, 1e-14);
    EXPECT_NEAR(routed.weights[2 * t + 1], 1.0 - greater, 1e-14);
  }
}

TEST_F(ChunkTopK, BeginsAgainWithEveryDocument) {
  make("chunk_top_k", {{"chunk_size", 3}}, {.experts = 5, .hidden_size = 6});
  const Tensor x = random_rows(20, 6);
  lay_out({0, 7, 8, 14, 20});
  const auto together = route(x, 2);
  const std::vector<double> first = row(together.scores.logits, 0);
  for (int64_t d = 0; d < 4; ++d) {
    const int64_t begin = layout_.document_offsets[static_cast<size_t>(d)];
    const int64_t end = layout_.document_offsets[static_cast<size_t>(d) + 1];
    EXPECT_EQ(row(together.scores.logits, begin), first);
    const Tensor own =
        rows(std::vector<double>(x.data<double>() + begin * 6, x.data<double>() + end * 6), 6);
    const SequenceLayout packed = layout_;
    layout_ = SequenceLayout::single(pool_, end - begin);
    const auto alone = route(own, 2);
    layout_ = packed;
    for (int64_t t = begin; t < end; ++t) {
      EXPECT_EQ(row(together.scores.logits, t), row(alone.scores.logits, t - begin)) << t;
    }
  }
}

TEST_F(ChunkTopK, GivesAChunkOneChoiceUnderAnyShiftOfExperts) {
  make("chunk_top_k", {{"chunk_size", 8}}, {.experts = 6, .hidden_size = 5});
  const Tensor x = random_rows(60, 5);
  const auto routed = route(x, 2, {.shift = {.1, .0, .05, .2, .0, .02}});
  for (size_t t = 0; t < 60; ++t) {
    for (size_t j = 0; j < 2; ++j) {
      EXPECT_EQ(routed.selection.expert[2 * t + j], routed.selection.expert[2 * (t - t % 8) + j]);
      EXPECT_EQ(routed.weights[2 * t + j], routed.weights[2 * (t - t % 8) + j]);
    }
  }
}

TEST_F(ChunkTopK, OfOneTokenIsTopKOneTokenLate) {
  make_of_logits("chunk_top_k", {{"chunk_size", 1}});
  const Tensor x = random_rows(9, 4);
  const auto late = route(x, 2);
  make_of_logits("top_k");
  const auto plain = route(x, 2);
  for (int64_t t = 1; t < 9; ++t) {
    EXPECT_EQ(row(late.scores.logits, t), row(plain.scores.logits, t - 1)) << t;
  }
}

TEST_F(ChunkTopK, DecodesInPiecesOfAnyLength) {
  make("chunk_top_k", {{"chunk_size", 5}}, {.experts = 4, .hidden_size = 6});
  const Tensor x = random_rows(41, 6);
  const auto whole = route(x, 2);
  const auto memory = router_->make_state(pool_, DType::f64, 41);
  int64_t begin = 0;
  for (const int64_t count : {1, 3, 1, 12, 5, 2, 17}) {
    const auto piece = route(rows(std::vector<double>(x.data<double>() + begin * 6,
                                                      x.data<double>() + (begin + count) * 6),
                                  6),
                             2, {.memory = memory.get(), .earlier = begin});
    for (int64_t t = 0; t < count; ++t) {
      EXPECT_EQ(row(piece.scores.logits, t), row(whole.scores.logits, begin + t)) << begin + t;
    }
    begin += count;
  }
  EXPECT_EQ(begin, 41);
}

TEST_F(ChunkTopK, GradientsOfTheTokensAndOfTheLearnedVectorAgreeWithDifferences) {
  make("chunk_top_k", {{"chunk_size", 3}}, {.experts = 4, .hidden_size = 5});
  lay_out({0, 10, 14});
  expect_gradient(random_rows(14, 5), 2);
}

}  // namespace
}  // namespace sluice
