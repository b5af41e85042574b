#include <set>

#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class DocumentPool : public testing::RouterFixture {
 protected:
  /// Experts with a score, per token.
  static std::vector<std::set<size_t>> pools(const testing::Routed& routed) {
    const auto s = testing::numbers(routed.scores.scores);
    const auto experts = static_cast<size_t>(routed.selection.experts);
    std::vector<std::set<size_t>> result(static_cast<size_t>(routed.selection.tokens));
    for (size_t i = 0; i < s.size(); ++i) {
      if (s[i] > 0.0) result[i / experts].insert(i % experts);
    }
    return result;
  }
  /// Sequences of documents of these lengths, from sequence number `first` on.
  void lay_out(const std::vector<std::vector<int64_t>>& sequences, uint64_t first = 0) {
    layout_ = {};
    layout_.sequence_offsets = layout_.document_offsets = {0};
    std::vector<int32_t> positions;
    for (const auto& documents : sequences) {
      for (const int64_t length : documents) {
        for (int32_t t = 0; t < length; ++t) positions.push_back(t);
        layout_.document_offsets.push_back(std::ssize(positions));
        layout_.document_domains.push_back(0);
      }
      layout_.sequence_offsets.push_back(std::ssize(positions));
      layout_.global_samples.push_back(first++);
    }
    layout_.counted.assign(positions.size(), 1);
    layout_.positions = Tensor::of<int32_t>(pool_, {std::ssize(positions)}, positions);
  }
  static testing::PassOptions training(int64_t step = 0) {
    return {.training = true, .progress = {.step = step}, .seed = 1};
  }
};

// The page's example: a = (1.4, .4, .75, .45), of which two are kept.
const std::vector<double> kProbabilities = {.5, .2, .2, .1, .3, .1, .35, .25, .6, .1, .2, .1};

TEST_F(DocumentPool, AgreesWithTheWorkedExample) {
  const std::vector<double> expected = {.714286, 0, .285714, 0,   .461538, 0,
                                        .538462, 0, .75,     0.0, .25,     0};
  const auto check = [&](const testing::Routed& routed) {
    const auto scores = testing::numbers(routed.scores.scores);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(scores[i], expected[i], testing::kPrinted) << i;
    }
    EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 2, 2, 0, 0, 2}));
    for (const auto& [slot, value] :
         {std::pair{0, .714286}, {1, .285714}, {2, .538462}, {3, .461538}, {4, .75}, {5, .25}}) {
      EXPECT_NEAR(routed.weights[static_cast<size_t>(slot)], value, testing::kPrinted);
    }
  };
  make_of_logits("document_pool", {{"evaluation", "document"}, {"evaluation_size", 2}});
  check(route(logarithms(kProbabilities, 4), 2));
  make_of_logits("document_pool", {{"min_size", 2}, {"max_size", 2}});
  check(route(logarithms(kProbabilities, 4), 2, training()));
}

TEST_F(DocumentPool, UsesAtMostTheExpertsOfItsPoolInADocument) {
  make_of_logits("document_pool", {{"min_size", 5}, {"max_size", 5}}, {.experts = 16, .top_k = 3});
  lay_out({{30, 11}, {41}});
  const auto routed = route(random_rows(82, 16), 3, training());
  for (const auto& [begin, end] : {std::pair<size_t, size_t>{0, 30}, {30, 41}, {41, 82}}) {
    std::set<int32_t> used(routed.selection.expert.begin() + static_cast<int64_t>(3 * begin),
                           routed.selection.expert.begin() + static_cast<int64_t>(3 * end));
    EXPECT_LE(used.size(), 5U);
    for (size_t t = begin; t < end; ++t) EXPECT_EQ(pools(routed)[t], pools(routed)[begin]);
    EXPECT_EQ(pools(routed)[begin].size(), 5U);
  }
}

TEST_F(DocumentPool, WithAPoolOfAllExpertsIsTopK) {
  const Tensor x = random_rows(20, 4);
  make_of_logits("document_pool", {{"min_size", 4}, {"evaluation", "all"}});
  const auto trained = route(x, 2, training());
  const auto evaluated = route(x, 2);
  make_of_logits("top_k", {{"weights", "as_is"}});
  const auto plain = route(x, 2);
  for (const auto& routed : {trained, evaluated}) {
    EXPECT_EQ(routed.selection, plain.selection);
    EXPECT_EQ(routed.weights, plain.weights);
  }
}

TEST_F(DocumentPool, DrawsTheSizeUniformlyPerDocumentLayerAndStep) {
  const std::vector<std::vector<int64_t>> sequences(100, {1, 1, 1, 1});
  const Tensor x = random_rows(400, 8);
  const auto sizes = [&](int64_t layer, int64_t step) {
    make_of_logits("document_pool", {{"min_size", 3}, {"max_size", 6}},
                   {.experts = 8, .layer = layer});
    lay_out(sequences);
    std::vector<size_t> result;
    for (const auto& pool : pools(route(x, 2, training(step)))) result.push_back(pool.size());
    return result;
  };
  const auto drawn = sizes(0, 0);
  for (size_t size = 3; size <= 6; ++size) {
    EXPECT_NEAR(std::ranges::count(drawn, size), 100, 45) << size;  // five standard deviations
  }
  EXPECT_EQ(sizes(0, 0), drawn);
  EXPECT_NE(sizes(1, 0), drawn);
  EXPECT_NE(sizes(0, 1), drawn);
}

TEST_F(DocumentPool, DoesNotDependOnTheMicroBatch) {
  make_of_logits("document_pool", {{"min_size", 2}, {"max_size", 7}}, {.experts = 8});
  const Tensor x = random_rows(60, 8);
  lay_out({{9, 21}, {17, 13}}, 5);
  const auto both = route(x, 2, training());
  lay_out({{17, 13}}, 6);
  const auto second =
      route(rows({x.span<double>().begin() + 240, x.span<double>().end()}, 8), 2, training());
  EXPECT_TRUE(std::equal(second.selection.expert.begin(), second.selection.expert.end(),
                         both.selection.expert.begin() + 60));
  EXPECT_TRUE(std::equal(second.weights.begin(), second.weights.end(), both.weights.begin() + 60));
}

TEST_F(DocumentPool, EvaluatesByDefaultWithThePoolOfTheTokensSoFar) {
  make_of_logits("document_pool", {{"evaluation_size", 3}}, {.experts = 8});
  const Tensor x = random_rows(25, 8);
  const auto routed = route(x, 2);
  // The pool of a token is that of a document which ends there.
  for (int64_t t = 0; t < 25; ++t) {
    make_of_logits("document_pool", {{"evaluation", "document"}, {"evaluation_size", 3}},
                   {.experts = 8});
    const auto so_far =
        route(rows({x.span<double>().begin(), x.span<double>().begin() + 8 * (t + 1)}, 8), 2);
    EXPECT_EQ(pools(routed)[static_cast<size_t>(t)], pools(so_far)[static_cast<size_t>(t)]) << t;
  }
}

TEST_F(DocumentPool, StaysAsItIsAfterThePrefix) {
  make_of_logits("document_pool", {{"evaluation_size", 3}, {"prefix", 6}}, {.experts = 8});
  const Tensor x = random_rows(40, 8);
  lay_out({{25, 15}});
  const auto routed = pools(route(x, 2));
  make_of_logits("document_pool", {{"evaluation_size", 3}}, {.experts = 8});
  lay_out({{25, 15}});
  const auto moving = pools(route(x, 2));
  for (size_t t = 0; t < 25; ++t) EXPECT_EQ(routed[t], moving[std::min<size_t>(t, 5)]) << t;
  for (size_t t = 25; t < 40; ++t) EXPECT_EQ(routed[t], moving[std::min<size_t>(t, 30)]) << t;
  EXPECT_NE(moving[24], moving[5]);
}

TEST_F(DocumentPool, DecodesInChunksWhatItEvaluates) {
  for (const nlohmann::json& options :
       {nlohmann::json{{"evaluation_size", 3}}, {{"evaluation_size", 3}, {"prefix", 6}}}) {
    make_of_logits("document_pool", options, {.experts = 8});
    const Tensor x = random_rows(20, 8);
    layout_ = {};
    const auto whole = route(x, 2);
    const auto memory = router_->make_state(pool_, DType::f64, 20);
    int64_t done = 0;
    for (const int64_t count : {4, 1, 7, 8}) {
      layout_ = SequenceLayout::single(pool_, count, done);
      const auto begin = x.span<double>().begin() + 8 * done;
      const auto part = route(rows({begin, begin + 8 * count}, 8), 2, {.memory = memory.get()});
      EXPECT_TRUE(
          std::equal(part.weights.begin(), part.weights.end(), whole.weights.begin() + 2 * done));
      done += count;
    }
  }
}

TEST_F(DocumentPool, EvaluatesWithChosenExperts) {
  make_of_logits("document_pool", {{"evaluation", "experts"}, {"experts", {1, 3, 6}}},
                 {.experts = 8});
  const Tensor x = random_rows(10, 8);
  const auto routed = route(x, 2);
  const auto z = testing::numbers(x);
  for (size_t t = 0; t < 10; ++t) {
    EXPECT_EQ(pools(routed)[t], (std::set<size_t>{1, 3, 6}));
    const double total = std::exp(z[8 * t + 1]) + std::exp(z[8 * t + 3]) + std::exp(z[8 * t + 6]);
    const auto best = static_cast<size_t>(routed.selection.expert[2 * t]);
    EXPECT_NEAR(routed.weights[2 * t], std::exp(z[8 * t + best]) / total, 1e-14);
  }
}

TEST_F(DocumentPool, NoShiftBringsInAnExpertFromOutside) {
  make_of_logits("document_pool", {{"evaluation", "document"}, {"evaluation_size", 3}});
  const Tensor x = logarithms(kProbabilities, 4);
  const auto plain = route(x, 2);
  const auto shifted = route(x, 2, {.shift = {0.0, 9.0, 0.0, 0.0}});
  EXPECT_EQ(shifted.selection.expert, plain.selection.expert);
  // Inside the pool {0, 2, 3} it has its say.
  const auto inside = route(x, 2, {.shift = {0.0, 0.0, 0.0, 9.0}});
  EXPECT_EQ(inside.selection.expert, (std::vector<int32_t>{3, 0, 3, 2, 3, 0}));
}

TEST_F(DocumentPool, SendsNoGradientOutside) {
  make_of_logits("document_pool", {{"min_size", 2}, {"max_size", 2}});
  const auto grad = gradient(logarithms(kProbabilities, 4), 2, {1, 2, 3, 4, 5, 6}, training());
  for (const size_t outside : {1, 3, 5, 7, 9, 11}) EXPECT_EQ(grad[outside], 0.0);
  for (const size_t inside : {0, 2, 4, 6, 8, 10}) EXPECT_NE(grad[inside], 0.0);
  expect_gradient(random_rows(6, 4), 2, training());
}

TEST_F(DocumentPool, CountsTokensWithoutALossForThePool) {
  make_of_logits("document_pool", {{"evaluation", "document"}, {"evaluation_size", 2}});
  const auto all = route(logarithms(kProbabilities, 4), 2);
  layout_.counted = {0, 0, 1};
  EXPECT_EQ(pools(route(logarithms(kProbabilities, 4), 2)), pools(all));
}

TEST_F(DocumentPool, KeepsAPoolWhenAnExpertIsNaN) {
  make_of_logits("document_pool", {{"evaluation", "document"}, {"evaluation_size", 2}});
  std::vector<double> x(8, 0.5);
  x[1] = std::numeric_limits<double>::quiet_NaN();
  const auto routed = route(rows(x, 4), 2);
  for (const int32_t expert : routed.selection.expert) EXPECT_TRUE(expert >= 0 && expert < 4);
}

TEST_F(DocumentPool, RefusesPoolsThatDoNotFit) {
  const auto config = router_registry().at("document_pool").make_config();
  auto& router = dynamic_cast<RouterConfig&>(*config);
  EXPECT_EQ(router.check_against(16, 2), "");
  EXPECT_EQ(router.check_against(2, 2), "");
  EXPECT_TRUE(router.looks_ahead());
  testing::set_fields(*config, {{"min_size", 3}});
  EXPECT_EQ(router.check_against(16, 4),
            "router.min_size: found 3, allowed 4 (top_k) to 16 (num_experts)");
  testing::set_fields(*config, {{"max_size", 2}});
  EXPECT_EQ(router.check_against(16, 2), "router.min_size: found 3, allowed 2 to 2 (max_size)");
  testing::set_fields(*config, {{"min_size", "auto"}, {"max_size", "auto"}});
  EXPECT_EQ(config->check(), "");
  testing::set_fields(*config, {{"experts", {1, 7, 1}}});
  EXPECT_EQ(config->check(), "experts: found a list, allowed only with evaluation: experts");
  testing::set_fields(*config, {{"evaluation", "experts"}});
  EXPECT_EQ(config->check(), "experts: found 1 twice, allowed each expert once");
  testing::set_fields(*config, {{"experts", {1, 7}}});
  EXPECT_EQ(router.check_against(16, 3),
            "router.experts: found 2 experts, allowed 3 (top_k) or more");
  EXPECT_EQ(router.check_against(6, 2),
            "router.experts: found 7, allowed 0 to 5 (num_experts - 1)");
  testing::set_fields(*config, {{"prefix", 4}});
  EXPECT_EQ(config->check(), "prefix: found 4, allowed only with evaluation: prefix");
}

}  // namespace
}  // namespace sluice
