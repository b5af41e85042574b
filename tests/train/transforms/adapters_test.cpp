// Mixtures of LoRAs from LoRAs that were trained apart (upcycle.scheme adapters).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/train/transforms/upcycling_runs.h"
#include "train/transforms/merge_adapters.h"

namespace sluice {
namespace {

using testing::branches_of;
using ::testing::Contains;
using testing::Dense;
using testing::element;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_run;
using testing::state_of;

/// A recipe of the dense model with one entry of model.adapters.
Recipe adapted(const std::string& adapter, const std::string& sections) {
  return testing::tiny_dense_recipe(
      fmt::format("model: {{dtype: f64, init: {{std: 0.2}}, adapters: {{heads: {{{}}}}}}}\n{}",
                  adapter, sections));
}

constexpr const char* kMaps = "linears: [attention.q, feed_forward.down]";
const std::vector<std::string>& weights() {
  static const std::vector<std::string> names = {
      "layers.0.attention.w_q", "layers.1.feed_forward.w_down", "layers.2.attention.w_q",
      "layers.3.feed_forward.w_down"};
  return names;
}

/// A LoRA beside the dense model after two steps, with random numbers of its own.
std::string lora_file(const Dense& dense, const std::string& name, int64_t seed,
                      const std::string& lora = "rank: 2", const std::string& train = "") {
  const std::string path = (dense.folder() / (name + ".h5")).string();
  const Recipe recipe =
      adapted(fmt::format("type: lora, {}, b_std: 0.3, {}", kMaps, lora),
              fmt::format("seed: {}\ntrain: {{init_from: \"{}\", {}}}", seed, dense.path(), train));
  (void)testing::trained_checkpoint(recipe, 2, path);
  return path;
}

Recipe mixture(const Dense& dense, const std::string& adapter,
               std::initializer_list<std::string> branches) {
  const bool routes = adapter.find("top_k") != std::string::npos;
  return adapted(adapter,
                 fmt::format("{}upcycle: {{from: \"{}\", {}, scheme: {{type: adapters}}}}",
                             routes ? "balance: {type: none}\n" : "", dense.path(),
                             branches_of(branches)));
}

/// The weights of a model with its adapters folded in.
StateDict folded(const Checkpoint& checkpoint) {
  return merge_adapters(checkpoint, "adapted.h5").checkpoint.state;
}

TEST(LorasTrainedApart, AreOneMixtureThatIsTheirSumAtFirst) {
  const Dense dense("f64");
  // Another alpha, and rank-stabilised: what counts is s B A.
  const std::string a = lora_file(dense, "a", 3);
  const std::string b = lora_file(dense, "b", 4, "rank: 2, alpha: 4, rank_stabilised: true");
  sluice::Run run = make_run(mixture(
      dense, fmt::format("type: static_mixture, {}, rank: 2, num_experts: 2", kMaps), {a, b}));
  EXPECT_THAT(run.upcycling()->notes,
              Contains("4 adapters, each made of the 2 LoRAs of 2 branches, in order"));
  const StateDict sum = folded(run.checkpoint(std::nullopt));
  const StateDict of_a = folded(read_checkpoint(a));
  const StateDict of_b = folded(read_checkpoint(b));
  double moved = 0.0;
  for (const std::string& name : weights()) {
    const std::string path = "model/" + name;
    const StateArray& before = dense.checkpoint().state.at(path);
    for (size_t i = 0; i < static_cast<size_t>(before.numel()); ++i) {
      const double w = element<double>(before, i);
      const double expected = element<double>(of_a.at(path), i) + element<double>(of_b.at(path), i) - w;
      EXPECT_NEAR(element<double>(sum.at(path), i), expected, 1e-12) << path;
      moved = std::max(moved, std::abs(element<double>(of_b.at(path), i) - w));
    }
  }
  EXPECT_GT(moved, 1e-2);
  EXPECT_TRUE(run.step().applied);
}

TEST(LorasTrainedApart, AreTheExpertsOfARouter) {
  const Dense dense("f64");
  const std::string a = lora_file(dense, "a", 3);
  const std::string b = lora_file(dense, "b", 4);
  const StateDict of_a = read_checkpoint(a).state;
  const StateDict of_b = read_checkpoint(b).state;
  for (const char* type : {"lora_mixer", "mola"}) {
    sluice::Run run = make_run(mixture(
        dense, fmt::format("type: {}, {}, rank: 2, num_experts: 2, top_k: 2", type, kMaps), {a, b}));
    const StateDict state = state_of(run);
    for (const char* name : {"layers.0.attention.adapters.heads.q.w_a",
                             "layers.3.feed_forward.adapters.heads.down.w_b"}) {
      const std::string path = fmt::format("model/{}", name);
      const StateArray& experts = state.at(path);
      ASSERT_EQ(experts.dims[0], 2);
      std::vector<std::byte> both = of_a.at(path).bytes;
      both.insert(both.end(), of_b.at(path).bytes.begin(), of_b.at(path).bytes.end());
      EXPECT_EQ(experts.bytes, both) << type << " " << path;
    }
    for (const auto& [path, array] : dense.checkpoint().state) {
      if (!path.starts_with("model/")) continue;
      EXPECT_EQ(state.at(path), array) << path;
    }
    EXPECT_TRUE(run.step().applied) << type;
  }
}

TEST(LorasTrainedApart, MayHaveMixedRanksBesideThePublicModel) {
  const Dense dense("f64");
  const std::string a = lora_file(dense, "a", 3);
  const std::string b = lora_file(dense, "b", 4, "rank: 4");
  sluice::Run run = make_run(
      mixture(dense, fmt::format("type: flex_rank, {}, ranks: [0, 2, 4], top_k: 2", kMaps), {a, b}));
  const StateDict state = state_of(run);
  const std::string path = "model/layers.2.attention.adapters.heads.q.w_a";
  EXPECT_FALSE(state.contains(path + ".0"));
  EXPECT_EQ(state.at(path + ".1").bytes, read_checkpoint(a).state.at(path).bytes);
  EXPECT_EQ(state.at(path + ".2").bytes, read_checkpoint(b).state.at(path).bytes);
}

TEST(LorasTrainedApart, MayBeCutIntoSmallerExperts) {
  const Dense dense("f64");
  const std::string a = lora_file(dense, "a", 3, "rank: 4");
  const std::string b = lora_file(dense, "b", 4, "rank: 4");
  sluice::Run run = make_run(mixture(
      dense, fmt::format("type: static_mixture, {}, rank: 2, num_experts: 4", kMaps), {a, b}));
  const StateDict sum = folded(run.checkpoint(std::nullopt));
  const std::string path = "model/layers.0.attention.w_q";
  const StateDict of_a = folded(read_checkpoint(a));
  const StateDict of_b = folded(read_checkpoint(b));
  for (size_t i = 0; i < static_cast<size_t>(sum.at(path).numel()); ++i) {
    EXPECT_NEAR(element<double>(sum.at(path), i),
                element<double>(of_a.at(path), i) + element<double>(of_b.at(path), i) -
                    element<double>(dense.checkpoint().state.at(path), i),
                1e-12);
  }
}

TEST(LorasTrainedApart, AreRefusedWhereTheyDoNotFit) {
  const Dense dense("f64");
  const std::string a = lora_file(dense, "a", 3);
  const auto refusal = [&](const std::string& adapter, std::initializer_list<std::string> branches) {
    return error_of<Error>([&] { (void)make_run(mixture(dense, adapter, branches)); });
  };
  const auto experts = [](const std::string& settings) {
    return fmt::format("type: mola, {}, top_k: 1, router: {{type: top_k, weights: as_is}}, {}", kMaps,
                       settings);
  };
  EXPECT_THAT(refusal(experts("rank: 2, num_experts: 3"), {a, a}),
              HasSubstr("experts of ranks [2, 2, 2], the branches LoRAs of ranks [2, 2]"));
  EXPECT_THAT(refusal(experts("rank: 4, num_experts: 1"), {a, a}),
              HasSubstr("experts of ranks [4], the branches LoRAs of ranks [2, 2]"));
  EXPECT_THAT(refusal("type: static_mixture, linears: [attention.q], rank: 2, num_experts: 1", {a}),
              HasSubstr("has adapter heads.down of layers.1.feed_forward.w_down, of which"));
  EXPECT_THAT(refusal(fmt::format("type: mos, {}, rank: 2", kMaps), {a}),
              HasSubstr("is not made of LoRAs"));
  const std::string none = dense.branch("none", 1);
  EXPECT_THAT(refusal(experts("rank: 2, num_experts: 2"), {a, none}),
              HasSubstr("upcycle.branches.1.from: " + none + " has no adapter heads.q of "));
  const std::string thawed =
      lora_file(dense, "thawed", 4, "rank: 2", "unfreeze: [\"*.norm.*\"]");
  EXPECT_THAT(refusal(experts("rank: 2, num_experts: 2"), {a, thawed}),
              HasSubstr("bit for bit; branches train their adapters alone"));
}

}  // namespace
}  // namespace sluice
