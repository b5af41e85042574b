#include "train/transforms/router_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>

#include "tests/support/error_of.h"
#include "tests/train/transforms/upcycling_runs.h"

namespace sluice {
namespace {

using ::testing::Contains;
using testing::Dense;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_run;
using testing::recipe_of;
using testing::state_of;

constexpr size_t kHidden = 16;

/// [E, D] rows of the first layer of experts.
std::vector<std::vector<double>> rows_of(const Dense& dense, const std::string& router,
                                         int64_t experts = 2, const std::string& layer = "1") {
  sluice::Run run = make_run(recipe_of(
      dense, {fmt::format("num_experts: {}, top_k: 2, intermediate_size: 24", experts),
              fmt::format("router: {{type: prompts, {}}}", router), "f64"}));
  const StateDict state = state_of(run);
  const auto values =
      state.at(fmt::format("model/layers.{}.router.weight", layer)).values<double>();
  std::vector<std::vector<double>> rows;
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    rows.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(e * kHidden),
                      values.begin() + static_cast<std::ptrdiff_t>((e + 1) * kHidden));
  }
  return rows;
}

double product(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

TEST(PromptRows, HaveLengthOneAndPointAtTheirOwnPrompts) {
  const Dense dense("f64");
  for (const std::string mode : {"hidden", "hidden_last", "hidden_avg", "cheap_embed"}) {
    for (const std::string capture : {"router_input", "block_input"}) {
      const auto rows = rows_of(
          dense, fmt::format("mode: {}, capture: {}, experts: [{{prompts: [aaaa, aab]}}, {{prompts: "
                             "[zzzz, zzy]}}]",
                             mode, capture));
      for (const auto& row : rows) EXPECT_NEAR(product(row, row), 1.0, 1e-12) << mode;
      EXPECT_LT(product(rows[0], rows[1]), 1.0 - 1e-6) << mode << ", " << capture;
    }
  }
}

TEST(PromptRows, OfEqualPromptsAreEqual) {
  const Dense dense("f64");
  const auto rows =
      rows_of(dense, "mode: hidden_avg, experts: [{prompts: [abc, def]}, {prompts: [abc, def]}]");
  EXPECT_EQ(rows[0], rows[1]);
}

TEST(PromptRows, AreWhatTheRouterWillRead) {
  // The row of one prompt of one token is the router's own input for that token, scaled to length 1:
  // its logit is then the largest that any row of length 1 can have.
  const Dense dense("f64");
  const auto rows = rows_of(dense, "experts: [{prompts: [a]}, {prompts: [k]}]");
  TrainedModel trained = build_trained_model(dense.checkpoint(), "dense.h5");
  Tape tape(*trained.pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(*trained.pool, 1);
  const ForwardContext context{tape, layout};
  const Tensor token = Tensor::of<int32_t>(*trained.pool, {1}, std::vector<int32_t>{'a'});
  std::vector<double> input;
  const auto hook = [&](int64_t sublayer, const Tensor& stream, const Tensor& read) {
    if (sublayer == 1) input.assign(read.span<double>().begin(), read.span<double>().end());
    return stream;
  };
  const Tensor hooked = trained.model->forward(context, token, hook).hidden;
  ASSERT_EQ(input.size(), kHidden);
  EXPECT_NEAR(product(rows[0], input), std::sqrt(product(input, input)), 1e-12);
  EXPECT_LT(product(rows[1], input), product(rows[0], input));
  // Looking on changes nothing.
  const Tensor plain = trained.model->forward(context, token).hidden;
  for (int64_t i = 0; i < plain.numel(); ++i) {
    EXPECT_EQ(plain.data<double>()[i], hooked.data<double>()[i]);
  }
}

TEST(PromptRows, LessTheSamePromptsAreZeroAndSaySo) {
  const Dense dense("f64");
  sluice::Run run = make_run(recipe_of(
      dense, {"num_experts: 2, top_k: 2, intermediate_size: 24",
              "router: {type: prompts, experts: [{prompts: [abc], negative: [abc]}, {prompts: [x]}]}",
              "f64"}));
  const auto values = state_of(run).at("model/layers.1.router.weight");
  for (size_t d = 0; d < kHidden; ++d) EXPECT_EQ(values.values<double>()[d], 0.0);
  EXPECT_THAT(run.upcycling()->notes, Contains(HasSubstr("router row of expert 0 in layers.1 is 0")));
  EXPECT_THAT(run.upcycling()->notes, Contains(HasSubstr("condition number inf")));
}

TEST(PromptRows, OfCheapEmbeddingsAreTheSameInEveryLayer) {
  const Dense dense("f64");
  const std::string router = "mode: cheap_embed, experts: [{prompts: [abc]}, {prompts: [xyz]}]";
  EXPECT_EQ(rows_of(dense, router, 2, "1"), rows_of(dense, router, 2, "3"));
}

TEST(PromptRows, AreSharedOutInRunsAndReadDocumentsOfFiles) {
  const Dense dense("f64");
  const std::string file = (dense.folder() / "documents.txt").string();
  std::ofstream(file) << "abc\n\n\ndef\nghi\n\nnot read\n";
  const auto rows = rows_of(
      dense,
      fmt::format("mode: hidden_avg, most_documents: 2, experts: [{{file: \"{}\"}}, {{prompts: "
                  "[\"abc\\n\", \"def\\nghi\\n\"]}}]",
                  file),
      4);
  EXPECT_EQ(rows[0], rows[1]);
  EXPECT_EQ(rows[0], rows[2]) << "the documents are those prompts";
  EXPECT_EQ(rows[2], rows[3]);
}

TEST(RandomRows, HaveTheSpreadOfThePage) {
  const Dense dense("f64");
  const auto normal = rows_of(dense, "mode: random", 64);
  const auto uniform = rows_of(dense, "mode: uniform_random", 64);
  double squares = 0.0;
  for (const auto& row : normal) squares += product(row, row);
  // Five standard errors of a variance over 1024 numbers.
  EXPECT_NEAR(squares / 1024, 1.0, 5 * std::sqrt(2.0 / 1024));
  for (const auto& row : uniform) {
    for (const double value : row) EXPECT_LE(std::abs(value), 0.25);
  }
  EXPECT_NE(normal[0], normal[1]);
}

TEST(ConditionNumber, IsTheRatioOfSingularValues) {
  const std::vector<double> diagonal{3, 0, 0, 0, 2, 0};
  EXPECT_NEAR(condition_number(diagonal, 2), 1.5, 1e-12);
  // Rows (1, 0) and (1, 1): singular values (3 +- 5^(1/2)) / 2 to the power 1/2.
  const std::vector<double> sheared{1, 0, 1, 1};
  EXPECT_NEAR(condition_number(sheared, 2), std::sqrt((3 + std::sqrt(5)) / (3 - std::sqrt(5))), 1e-12);
  const std::vector<double> equal{1, 2, 1, 2};
  EXPECT_EQ(condition_number(equal, 2), std::numeric_limits<double>::infinity());
}

TEST(PromptRows, RefuseWhatDoesNotFit) {
  const Dense dense("f64");
  const auto refusal = [&](const std::string& router) {
    return error_of<Error>([&] { (void)rows_of(dense, router, 4); });
  };
  EXPECT_THAT(refusal("mode: hidden"), HasSubstr("experts: not given"));
  EXPECT_THAT(refusal("mode: random, experts: [{prompts: [a]}]"), HasSubstr("need no prompts"));
  EXPECT_THAT(refusal("experts: [{prompts: [a]}, {prompts: [b]}, {prompts: [c]}]"),
              HasSubstr("found 3 entries, allowed a divisor of the 4 rows"));
  EXPECT_THAT(refusal("experts: [{negative: [a]}]"), HasSubstr("prompts: not given"));
}

}  // namespace
}  // namespace sluice
