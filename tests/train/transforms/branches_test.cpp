// Experts from several models: Branch-Train-MiX, BAM, Innovator.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "tests/support/error_of.h"
#include "tests/train/transforms/upcycling_runs.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

using testing::branches_of;
using testing::Dense;
using testing::element;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_run;
using testing::receipt_of;
using testing::recipe_of;
using testing::Setting;
using testing::state_of;

constexpr const char* kThreeExperts = "num_experts: 3, top_k: 2, intermediate_size: 24";

TEST(BranchTrainMix, OfIdenticalBranchesIsTheSeed) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 1e-5}, {"f64", 1e-12}}) {
    const Dense dense(dtype);
    const std::string branches = branches_of({dense.path(), dense.path()});
    const Setting plan{kThreeExperts, branches + ", scheme: {type: branches}", dtype};
    EXPECT_LE(receipt_of(dense, plan).parity->relative_difference(), tolerance);
    // Means of equal tensors are those tensors, bit for bit.
    sluice::Run run = make_run(recipe_of(dense, plan));
    const StateDict state = state_of(run);
    for (const char* path : {"model/layers.0.attention.w_q", "model/layers.1.norm.weight",
                             "model/embedding.weight"}) {
      EXPECT_EQ(state.at(path), dense.checkpoint().state.at(path)) << path;
    }
  }
}

/// The neurons of scheme branches with these settings, of three models 24 wide.
LayerNeurons neurons_of(const Dense& dense, const std::string& scheme, int64_t experts,
                        int64_t width, int64_t shared = 0) {
  const Recipe recipe =
      recipe_of(dense, {"intermediate_size: 24", branches_of({"a.h5", "b.h5"}) +
                                                     ", scheme: {type: branches, " + scheme + "}"});
  const auto& config = dynamic_cast<const UpcycleConfig&>(*recipe.upcycle);
  return upcycling_registry()
      .at("branches")
      .make(*config.scheme.config)
      ->choose({.name = "layers.1",
                .seed = 1,
                .num_experts = experts,
                .top_k = 2,
                .expert_width = width,
                .shared_width = shared,
                .dense_width = 24,
                .hidden_size = 16,
                .dense_gate = dense.checkpoint().state.at("model/layers.1.feed_forward.w_gate"),
                .num_models = 3});
}

TEST(BranchTrainMix, SplitsAndBlendsByChunks) {
  const Dense dense;
  const auto range = [](int32_t first, int32_t count) {
    std::vector<int32_t> numbers(static_cast<size_t>(count));
    std::iota(numbers.begin(), numbers.end(), first);
    return numbers;
  };
  const LayerNeurons split = neurons_of(dense, "split: 2", 6, 12);
  EXPECT_EQ(split.experts[0].source, range(0, 12));
  EXPECT_EQ(split.experts[3].source, range(36, 12)) << "second half of the second model";
  EXPECT_DOUBLE_EQ(split.distinct(), 24.0) << "those of one feed-forward, in two parts";
  const LayerNeurons blended = neurons_of(dense, "blend: true", 3, 24);
  for (int32_t model = 0; model < 3; ++model) {
    const auto& own = blended.experts[1].source;
    EXPECT_EQ(std::vector<int32_t>(own.begin() + 8 * model, own.begin() + 8 * model + 8),
              range(24 * model + 8, 8));
  }
  // Each neuron of each model once: the sum of the experts is that of the models.
  std::set<int32_t> all;
  for (const NeuronChoice& expert : blended.experts) {
    all.insert(expert.source.begin(), expert.source.end());
  }
  EXPECT_EQ(all.size(), 72U);
  const LayerNeurons innovator = neurons_of(dense, "split: 4, seed: shared", 8, 6, 24);
  EXPECT_EQ(innovator.experts[0].source, range(24, 6)) << "branches alone are routed";
  EXPECT_EQ(innovator.shared.source, range(0, 24));
}

TEST(BranchTrainMix, PutsTheModelsSideBySideAndAveragesTheRest) {
  const Dense dense("f64");
  const std::string a = dense.branch("a", 2);
  const std::string b = dense.branch("b", 4);
  sluice::Run run = make_run(recipe_of(
      dense, {kThreeExperts, branches_of({a, b}) + ", scheme: {type: branches}", "f64"}));
  const StateDict state = state_of(run);
  const StateDict models[] = {dense.checkpoint().state, read_checkpoint(a).state,
                              read_checkpoint(b).state};
  for (const char* name : {"w_gate", "w_up", "w_down"}) {
    const StateArray& experts = state.at(fmt::format("model/layers.1.experts.{}", name));
    for (size_t m = 0; m < 3; ++m) {
      const StateArray& own = models[m].at(fmt::format("model/layers.1.feed_forward.{}", name));
      for (size_t i = 0; i < own.values<double>().size(); ++i) {
        EXPECT_EQ(element<double>(experts, m * own.values<double>().size() + i),
                  element<double>(own, i));
      }
    }
  }
  const char* const kShared = "model/layers.2.attention.w_k";
  for (size_t i = 0; i < 16; ++i) {
    const double mean = (element<double>(models[0].at(kShared), i) +
                         element<double>(models[1].at(kShared), i) +
                         element<double>(models[2].at(kShared), i)) /
                        3.0;
    EXPECT_NEAR(element<double>(state.at(kShared), i), mean, 1e-15);
  }
  EXPECT_NE(element<double>(models[1].at(kShared), 0), element<double>(models[2].at(kShared), 0));
}

TEST(BranchTrainMix, BlendedSaysThatATokenUsesPartOfEachModel) {
  const Dense dense;
  const UpcyclingReceipt receipt =
      receipt_of(dense, {kThreeExperts, branches_of({dense.path(), dense.path()}) +
                                            ", scheme: {type: branches, blend: true}"});
  EXPECT_GT(receipt.parity->relative_difference(), 1e-3);
  EXPECT_THAT(receipt.notes, ::testing::Contains(HasSubstr("one chunk of every model")));
}

TEST(Bam, OfIdenticalModelsIsTheSeedWhateverTheRouters) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 1e-5}, {"f64", 1e-12}}) {
    const Dense dense(dtype);
    for (const bool shared : {false, true}) {
      const Setting plan{kThreeExperts,
                         branches_of({dense.path(), dense.path()}) + ", scheme: {type: branches}",
                         dtype, "",
                         fmt::format("pattern: (UE)x2, attention: ~, attention_mixture: {{num_experts: "
                                     "3, num_heads: 2, num_kv_heads: 1, share_keys: {}}}",
                                     shared)};
      EXPECT_LE(receipt_of(dense, plan).parity->relative_difference(), tolerance) << shared;
    }
  }
}

/// The same function by other weights: heads change places, values are twice as large and w_o makes up for it.
Checkpoint twin_of(const Checkpoint& checkpoint) {
  Checkpoint twin = checkpoint;
  for (auto& [path, array] : twin.state) {
    if (!path.starts_with("model/") || path.find(".attention.") == path.npos) continue;
    const auto is = [&](std::string_view name) { return path.ends_with(name); };
    auto* values = reinterpret_cast<double*>(array.bytes.data());
    const size_t rows = static_cast<size_t>(array.dims[0]);
    const size_t columns = static_cast<size_t>(array.dims[1]);
    if (is("w_q")) std::rotate(values, values + rows / 2 * columns, values + rows * columns);
    if (is("w_v")) std::transform(values, values + rows * columns, values, [](double v) { return 2 * v; });
    if (!is("w_o")) continue;
    for (size_t r = 0; r < rows; ++r) {
      double* row = values + r * columns;
      std::rotate(row, row + columns / 2, row + columns);
      std::transform(row, row + columns, row, [](double v) { return v / 2; });
    }
  }
  return twin;
}

TEST(Bam, KeepsWhatBelongsToAnExpertTogether) {
  const Dense dense("f64");
  const Checkpoint twin = twin_of(dense.checkpoint());
  ASSERT_NE(twin.state, dense.checkpoint().state);
  const std::string path = (dense.folder() / "twin.h5").string();
  write_checkpoint(real_file_system(), path, twin);
  const Setting plan{"num_experts: 2, top_k: 2, intermediate_size: 24",
                     branches_of({path}) + ", scheme: {type: branches}", "f64", "",
                     "pattern: (UE)x2, attention: ~, attention_mixture: {num_experts: 2, num_heads: 2, "
                     "num_kv_heads: 1, share_keys: false}"};
  EXPECT_LE(receipt_of(dense, plan).parity->relative_difference(), 1e-12);
}

TEST(Bam, KeepsOrSharesKeys) {
  const Dense dense("f64");
  const std::string branch = dense.branch("a", 3);
  const auto state = [&](bool shared) {
    sluice::Run run = make_run(recipe_of(
        dense, {"num_experts: 2, top_k: 2, intermediate_size: 24",
                branches_of({branch}) + ", scheme: {type: branches}", "f64", "",
                fmt::format("pattern: (UE)x2, attention: ~, attention_mixture: {{num_experts: 2, "
                            "num_heads: 2, num_kv_heads: 1, share_keys: {}}}",
                            shared)}));
    return state_of(run);
  };
  const StateDict own = state(false);
  const StateDict shared = state(true);
  const StateArray& keys = dense.checkpoint().state.at("model/layers.0.attention.w_k");
  // N sets of keys against one: the cache's size.
  EXPECT_EQ(own.at("model/layers.0.attention_mixture.w_k").numel(), 2 * keys.numel());
  EXPECT_EQ(shared.at("model/layers.0.attention_mixture.w_k").numel(), keys.numel());
  const StateArray other = read_checkpoint(branch).state.at("model/layers.0.attention.w_k");
  EXPECT_NEAR(element<double>(shared.at("model/layers.0.attention_mixture.w_k"), 5),
              0.5 * (element<double>(keys, 5) + element<double>(other, 5)), 1e-15);
  const auto n = static_cast<size_t>(keys.numel());
  EXPECT_EQ(element<double>(own.at("model/layers.0.attention_mixture.w_k"), n + 5),
            element<double>(other, 5));
}

TEST(Innovator, WithRoutedExpertsAtZeroIsTheDenseModel) {
  const Dense dense;
  const UpcyclingReceipt receipt = receipt_of(
      dense, {"num_experts: 8, top_k: 4, intermediate_size: 6, shared: {num_experts: 1, "
              "intermediate_size: 24}",
              branches_of({dense.path(), dense.path()}) +
                  ", scheme: {type: branches, split: 4, seed: shared}, routed_output: zero"});
  EXPECT_LE(receipt.parity->relative_difference(), 1e-5);
}

TEST(Branches, RefuseWhatDoesNotFit) {
  const Dense dense;
  const std::string branch = dense.branch("a", 1);
  const auto refusal = [&](const std::string& experts, const std::string& upcycle,
                           const std::string& model = "") {
    return error_of<ConfigError>(
        [&] { (void)make_run(recipe_of(dense, {experts, upcycle, "f32", "", model})); });
  };
  const std::string scheme = ", scheme: {type: branches}";
  EXPECT_THAT(refusal(kThreeExperts, "scheme: {type: branches}"),
              HasSubstr("upcycle.branches: not given, but scheme branches"));
  EXPECT_THAT(refusal("intermediate_size: 24", branches_of({branch})),
              HasSubstr("upcycle.branches: given, but scheme copy"));
  EXPECT_THAT(refusal(kThreeExperts, branches_of({branch}) + scheme),
              HasSubstr("num_experts is 3, allowed a multiple of 2"));
  EXPECT_THAT(refusal("num_experts: 2, top_k: 2, intermediate_size: 12",
                      branches_of({branch}) + scheme),
              HasSubstr("intermediate_size is 12, allowed 24"));
  EXPECT_THAT(refusal("num_experts: 2, top_k: 2, intermediate_size: 24",
                      branches_of({branch}) + scheme + ", optimizer: keep"),
              HasSubstr("upcycle.optimizer: found keep with branches"));
  EXPECT_THAT(refusal("num_experts: 2, top_k: 2, intermediate_size: 24",
                      branches_of({"nowhere.h5"}) + scheme),
              HasSubstr("upcycle.branches.0.from: "));
  EXPECT_THAT(refusal("num_experts: 2, top_k: 2, intermediate_size: 24",
                      branches_of({branch}) + scheme,
                      "pattern: (UE)x2, attention: ~, attention_mixture: {num_experts: 2, num_heads: "
                      "4, num_kv_heads: 1}"),
              HasSubstr("num_heads: 2 there, 4 here"));
  const std::string narrow = (dense.folder() / "narrow.h5").string();
  (void)testing::trained_checkpoint(
      testing::tiny_dense_recipe("model: {feed_forward: {intermediate_size: 12}}"), 1, narrow);
  EXPECT_THAT(refusal("num_experts: 2, top_k: 2, intermediate_size: 24",
                      branches_of({narrow}) + scheme),
              HasSubstr("model.feed_forward.intermediate_size: 12 there, 24 here"));
}

}  // namespace
}  // namespace sluice
