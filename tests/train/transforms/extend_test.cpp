// More experts for a model that has some: MoExtend, MixtureGrowth.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/error_of.h"
#include "tests/train/transforms/upcycling_runs.h"

namespace sluice {
namespace {

using testing::branches_of;
using ::testing::Contains;
using testing::element;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_run;
using ::testing::Not;
using testing::recipe_of;
using testing::ScratchFolder;
using testing::Setting;
using testing::state_of;

/// A trained model of experts, in a folder of its own.
class Sparse {
 public:
  explicit Sparse(const std::string& dtype = "f64", const std::string& experts = "top_k: 2",
                  const std::string& more = "")
      : path_((folder_ / "sparse.h5").string()),
        checkpoint_(testing::trained_checkpoint(
            testing::tiny_recipe(fmt::format(
                "model: {{dtype: {}, init: {{std: 0.2}}, experts: {{{}}}}}\n{}", dtype, experts, more)),
            3, path_)) {}
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] const ScratchFolder& folder() const { return folder_; }

 private:
  ScratchFolder folder_;
  std::string path_;
  Checkpoint checkpoint_;
};

constexpr const char* kExtend = "scheme: {type: extend}";

TEST(MoExtend, ClonesTheMostUsedExpertWithItsRow) {
  const Sparse sparse;
  sluice::Run run = make_run(recipe_of(
      sparse.path(), {"num_experts: 6, top_k: 2", "scheme: {type: extend, clone: 2}", "f64"}));
  const StateDict state = state_of(run);
  for (const char* name : {"experts.w_gate", "experts.w_down", "router.weight"}) {
    const std::string path = fmt::format("model/layers.1.{}", name);
    const StateArray& before = sparse.checkpoint().state.at(path);
    const StateArray& after = state.at(path);
    const size_t size = before.values<double>().size() / 4;
    for (size_t i = 0; i < 4 * size; ++i) {
      ASSERT_EQ(element<double>(after, i), element<double>(before, i)) << path;
    }
    for (size_t e : {4U, 5U}) {
      for (size_t i = 0; i < size; ++i) {
        ASSERT_EQ(element<double>(after, e * size + i), element<double>(before, 2 * size + i)) << path;
      }
    }
  }
  // The balancer's bias grows with them.
  EXPECT_EQ(state.at("balance/0/loss_free_bias/bias").numel(), 6);
  EXPECT_EQ(element<double>(state.at("balance/0/loss_free_bias/bias"), 4),
            element<double>(sparse.checkpoint().state.at("balance/0/loss_free_bias/bias"), 2));
}

TEST(MoExtend, MaskedUntilItIsTrainedKeepsTheFunction) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 1e-5}, {"f64", 1e-12}}) {
    const Sparse sparse(dtype);
    const auto receipt = [&](const std::string& router) {
      return testing::receipt_of(sparse.path(),
                                 {"num_experts: 5, top_k: 2, router: " + router, kExtend, dtype});
    };
    const auto takes_a_place = Contains(HasSubstr("takes another one's place"));
    const UpcyclingReceipt masked = receipt("{type: extended, num_new: 1, masked: 3 steps}");
    EXPECT_LE(masked.parity->relative_difference(), tolerance);
    EXPECT_THAT(masked.notes, Contains("new experts are masked for the first 3 steps of the run"));
    EXPECT_THAT(masked.notes, Not(takes_a_place));
    // The paper's way: tokens that chose the cloned expert lose their second one.
    const UpcyclingReceipt paper = receipt("{type: extended, num_new: 1}");
    EXPECT_GT(paper.parity->relative_difference(), 1e-4);
    EXPECT_THAT(paper.notes, takes_a_place);
    // A mask for fewer experts than came in leaves some of them.
    const UpcyclingReceipt some = testing::receipt_of(
        sparse.path(),
        {"num_experts: 6, top_k: 2, router: {type: extended, num_new: 1, masked: 3 steps}", kExtend,
         dtype});
    EXPECT_THAT(some.notes, takes_a_place);
  }
}

TEST(MoExtend, MaskedKeepsScoresAsTheyAreToo) {
  const Sparse sparse("f64", "top_k: 2, router: {weights: as_is}");
  const UpcyclingReceipt receipt = testing::receipt_of(
      sparse.path(),
      {"num_experts: 5, top_k: 2, router: {type: extended, num_new: 1, masked: 1 steps, weights: as_is}",
       kExtend, "f64"});
  EXPECT_LE(receipt.parity->relative_difference(), 1e-12);
}

TEST(MoExtend, ComparesWithTheModelWhereItsSchedulesStopped) {
  // All experts at first, two at the end.
  const Sparse sparse("f64", "top_k: {type: linear, from: 4, to: 2, over: 2 steps}");
  const UpcyclingReceipt receipt = testing::receipt_of(
      sparse.path(),
      {"num_experts: 5, top_k: 2, router: {type: extended, num_new: 1, masked: 1 steps}", kExtend,
       "f64"});
  EXPECT_LE(receipt.parity->relative_difference(), 1e-12);
}

TEST(MoExtend, TrainsWhatIsNewAlone) {
  const Sparse sparse("f64", "top_k: 2", "balance: {type: none}");
  sluice::Run run = make_run(recipe_of(
      sparse.path(),
      {"num_experts: 5, top_k: 2, router: {type: extended, num_new: 1}", kExtend, "f64",
       "balance: {type: none}\n"
       "train: {freeze: [\"embedding*\", \"layers.*.attention.*\", \"*norm*\"], freeze_experts: [0, 1, 2, "
       "3]}"}));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run.step().applied);
  const StateDict state = state_of(run);
  for (const auto& [path, before] : sparse.checkpoint().state) {
    if (!path.starts_with("model/")) continue;
    const StateArray& after = state.at(path);
    const size_t size = before.values<double>().size();
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(element<double>(after, i), element<double>(before, i)) << path;
    }
    if (after.numel() == before.numel()) continue;
    double moved = 0.0;
    const size_t clone = static_cast<size_t>(after.numel()) - size;
    for (size_t i = 0; i < clone; ++i) {
      double least = 1e300;  // from every old slice: it is a clone of one of them
      for (size_t e = 0; e < 4; ++e) {
        least = std::min(least, std::abs(element<double>(after, size + i) -
                                         element<double>(before, e * clone + i)));
      }
      moved += least;
    }
    EXPECT_GT(moved, 0.0) << path;
  }
}

TEST(MoExtend, RanksLayersByAProbe) {
  const Sparse sparse;
  const std::string probe = (sparse.folder() / "probe.h5").string();
  (void)testing::trained_checkpoint(
      testing::tiny_recipe(fmt::format(
          "model: {{dtype: f64, init: {{std: 0.2}}, experts: {{top_k: 2}}}}\ntrain: {{init_from: "
          "\"{}\", freeze: [\"embedding*\", \"layers.*.attention.*\", \"*norm*\", "
          "\"layers.*.experts.*\"]}}",
          sparse.path())),
      3, probe);
  const UpcyclingReceipt receipt = testing::receipt_of(
      sparse.path(), {"num_experts: 5, top_k: 2", branches_of({probe}) + ", " + kExtend, "f64"});
  EXPECT_THAT(receipt.notes, Contains(HasSubstr("layers.1: usage moved by 0.")));
  EXPECT_THAT(receipt.notes, Contains(HasSubstr("layers.3: expert 4 from expert ")));
}

TEST(MoExtend, AddsToSomeLayersAlone) {
  const Sparse sparse;
  sluice::Run run = make_run(recipe_of(
      sparse.path(),
      {"top_k: 2", kExtend, "f64", "",
       "pattern: AEAZ, variants: {Z: {type: moe, num_experts: 6, top_k: 2, intermediate_size: 12}}"}));
  const StateDict state = state_of(run);
  EXPECT_EQ(state.at("model/layers.1.router.weight"),
            sparse.checkpoint().state.at("model/layers.1.router.weight"));
  EXPECT_EQ(state.at("model/layers.3.router.weight").dims[0], 6);
}

/// Largest |A A^T - 1| of coefficients [E, M].
double distance_from_orthonormal(const StateArray& array) {
  const auto E = static_cast<size_t>(array.dims[0]);
  const auto M = static_cast<size_t>(array.dims[1]);
  double largest = 0.0;
  for (size_t a = 0; a < E; ++a) {
    for (size_t b = 0; b < E; ++b) {
      double product = a == b ? -1.0 : 0.0;
      for (size_t t = 0; t < M; ++t) {
        product += element<double>(array, a * M + t) * element<double>(array, b * M + t);
      }
      largest = std::max(largest, std::abs(product));
    }
  }
  return largest;
}

TEST(MixtureGrowth, NewExpertsAreOrthonormalMixturesOfTheSameTemplates) {
  const std::string form = ", form: {type: templates, num_templates: 6}";
  // Without training the old coefficients are orthonormal, and all are together.
  const ScratchFolder folder;
  const std::string fresh = (folder / "fresh.h5").string();
  const Checkpoint before = testing::trained_checkpoint(
      testing::tiny_recipe("model: {dtype: f64, init: {std: 0.2}, experts: {top_k: 2" + form + "}}"), 0,
      fresh);
  const Setting plan{"num_experts: 6, top_k: 2" + form, kExtend, "f64"};
  sluice::Run run = make_run(recipe_of(fresh, plan));
  const StateDict state = state_of(run);
  for (const char* name : {"a_gate", "a_up", "a_down"}) {
    const std::string path = fmt::format("model/layers.1.experts.{}", name);
    EXPECT_LE(distance_from_orthonormal(before.state.at(path)), 1e-12);
    EXPECT_LE(distance_from_orthonormal(state.at(path)), 1e-6);
    for (size_t i = 0; i < 24; ++i) {
      EXPECT_EQ(element<double>(state.at(path), i), element<double>(before.state.at(path), i));
    }
  }
  EXPECT_EQ(state.at("model/layers.1.experts.t_gate"), before.state.at("model/layers.1.experts.t_gate"));
  EXPECT_TRUE(run.step().applied);
}

TEST(Extension, RefusesWhatDoesNotFit) {
  const Sparse sparse;
  const auto refusal = [&](const std::string& experts, const std::string& upcycle = kExtend,
                           const std::string& model = "") {
    return error_of<ConfigError>(
        [&] { (void)make_run(recipe_of(sparse.path(), {experts, upcycle, "f64", "", model})); });
  };
  EXPECT_THAT(refusal("top_k: 2"), HasSubstr("no layer has more experts"));
  EXPECT_THAT(refusal("num_experts: 3, top_k: 2"), HasSubstr("num_experts: found 3, allowed at least 4"));
  EXPECT_THAT(refusal("num_experts: 5, top_k: 2, intermediate_size: 8"), HasSubstr("make them alike"));
  EXPECT_THAT(refusal("num_experts: 5, top_k: 2", "scheme: {type: extend, clone: 4}"),
              HasSubstr("clone: found 4, allowed 0 to 3"));
  EXPECT_THAT(refusal("num_experts: 5, top_k: 2", kExtend, "pattern: (AE)x3"),
              HasSubstr("has 6 sublayers"));
}

}  // namespace
}  // namespace sluice
