#include "train/transforms/upcycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/error_of.h"
#include "tests/support/tiny_run.h"
#include "tests/train/transforms/upcycling_runs.h"
#include "train/find_checkpoint.h"
#include "train/trainer.h"
#include "train/transforms/upcycling.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using testing::Dense;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kDenseSteps;
using testing::make_run;
using testing::receipt_of;
using testing::recipe_of;
using testing::Setting;
using testing::state_of;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

constexpr int64_t kHidden = 16;
constexpr int64_t kDenseWidth = 24;

bool says_it_departs(const UpcyclingReceipt& receipt) {
  return std::ranges::any_of(receipt.notes, [](const std::string& note) {
    return note.find("not the dense function") != std::string::npos ||
           note.find("on average only") != std::string::npos;
  });
}

struct Exact {
  std::string name;
  std::string experts;
  std::string upcycle;
};

/// A scheme that keeps the function, whatever the order of softmax and choice.
struct ExactFamily {
  const char* name;
  int64_t num_experts;
  int64_t top_k;
  const char* experts;
  const char* upcycle;
};

const ExactFamily kExactFamilies[] = {
    {"copy", 8, 2, "intermediate_size: 24", ""},
    {"groups", 8, 2, "intermediate_size: 12", "scheme: {type: virtual_groups}"},
    {"groups_of_four", 16, 8, "intermediate_size: 6", "scheme: {type: virtual_groups}"},
    {"groups_up_down", 8, 4, "intermediate_size: 6",
     "scheme: {type: virtual_groups}, scale_target: up_down"},
    {"drop_nothing", 8, 2, "intermediate_size: 24", "scheme: {type: drop, ratio: 0}"},
    {"mask_nothing", 8, 2, "intermediate_size: 24", "scheme: {type: mask, share: 0}"},
    {"noise_nothing", 8, 2, "intermediate_size: 24", "scheme: {type: noise, std: 0}"},
    {"split_one_part", 8, 2, "intermediate_size: 24", "scheme: {type: split, order: random}"},
    {"split_beside_the_whole", 8, 2,
     "intermediate_size: 6, shared: {num_experts: 2, intermediate_size: 12}",
     "scheme: {type: split, shared: whole, order: clusters}, routed_output: zero"},
    {"ternary_beside_the_whole", 4, 2,
     "intermediate_size: 24, form: {type: ternary}, shared: {num_experts: 1, intermediate_size: 24}",
     "scale: 1, routed_output: zero"}};

std::vector<Exact> exact_schemes() {
  std::vector<Exact> all;
  for (const ExactFamily& f : kExactFamilies) {
    for (const char* weights : {"renormalise", "softmax_after", "as_is", "straight_through"}) {
      // Scores as they are sum to 1 where all experts are chosen.
      const int64_t top_k = weights == std::string_view("as_is") ? f.num_experts : f.top_k;
      all.push_back({fmt::format("{}_{}", f.name, weights),
                     fmt::format("num_experts: {}, top_k: {}, {}, router: {{weights: {}}}",
                                 f.num_experts, top_k, f.experts, weights),
                     f.upcycle});
    }
  }
  const std::string copy = "num_experts: 4, top_k: 2, intermediate_size: 24, ";
  all.push_back({"copy_scaled_weights", copy + "router: {scale: 2.5}", ""});
  all.push_back({"copy_sigmoid", copy + "router: {scores: sigmoid, weights: renormalise}", ""});
  all.push_back({"split_all_parts",
                 "num_experts: 4, top_k: 4, intermediate_size: 6, router: {weights: straight_through}",
                 "scheme: {type: split, order: clusters}"});
  all.push_back({"ternary_beside_the_whole_one_expert",
                 "num_experts: 4, top_k: 1, intermediate_size: 24, form: {type: ternary}, router: "
                 "{weights: as_is}, shared: {num_experts: 1, intermediate_size: 24}",
                 "scale: 1, routed_output: zero"});
  all.push_back({"dense_to_sparse_while_it_is_dense",
                 "num_experts: 4, top_k: 4, intermediate_size: 24, router: {type: dense_to_sparse, "
                 "threshold: 0, evaluation: threshold}",
                 "scheme: {type: mask, share: 0}, scale: 1"});
  for (const char* weights : {"renormalise", "softmax_after", "as_is"}) {
    all.push_back({fmt::format("domain_informed_{}", weights),
                   fmt::format("num_experts: 2, top_k: 2, intermediate_size: 24, router: {{type: "
                               "domain_informed, weights: {}}}",
                               weights),
                   ""});
  }
  return all;
}

class ExactScheme : public ::testing::TestWithParam<Exact> {};

TEST_P(ExactScheme, KeepsEveryLogit) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 1e-5}, {"f64", 1e-12}}) {
    const Dense dense(dtype);
    const UpcyclingReceipt receipt =
        receipt_of(dense, {GetParam().experts, GetParam().upcycle, dtype});
    const Parity& parity = *receipt.parity;
    EXPECT_GT(parity.tokens, 100);
    EXPECT_GT(parity.largest_logit, 0.5);
    EXPECT_LE(parity.relative_difference(), tolerance) << dtype;
    EXPECT_NEAR(parity.loss_after, parity.loss_before, tolerance) << dtype;
    const bool is_told_by_the_router = GetParam().experts.find("as_is") != std::string::npos ||
                                       GetParam().name == "split_all_parts";
    if (!is_told_by_the_router) {
      EXPECT_FALSE(says_it_departs(receipt)) << ::testing::PrintToString(receipt.notes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Upcycling, ExactScheme, ::testing::ValuesIn(exact_schemes()),
                         [](const auto& test) { return test.param.name; });

// What is no identity says so, and is none.
const Exact kInexact[] = {
    {"copy_as_is", "num_experts: 8, top_k: 2, intermediate_size: 24, router: {weights: as_is}", ""},
    {"copy_sigmoid_alone",
     "num_experts: 8, top_k: 1, intermediate_size: 24, router: {scores: sigmoid, weights: "
     "renormalise}",
     ""},
    {"groups_cube_root_softmax_after",
     "num_experts: 8, top_k: 2, intermediate_size: 12, router: {weights: softmax_after}",
     "scheme: {type: virtual_groups}, scale_target: all"},
    {"groups_cube_root_as_is",
     "num_experts: 4, top_k: 4, intermediate_size: 12, router: {weights: as_is}",
     "scheme: {type: virtual_groups}, scale_target: all"},
    {"groups_in_part", "num_experts: 8, top_k: 3, intermediate_size: 12",
     "scheme: {type: virtual_groups}"},
    {"groups_cube_root", "num_experts: 8, top_k: 2, intermediate_size: 12",
     "scheme: {type: virtual_groups}, scale_target: all"},
    {"drop", "num_experts: 8, top_k: 2, intermediate_size: 24", "scheme: {type: drop}"},
    {"noise", "num_experts: 8, top_k: 2, intermediate_size: 24", "scheme: {type: noise}"},
    {"mask", "num_experts: 8, top_k: 2, intermediate_size: 24", "scheme: {type: mask}"},
    {"ternary", "num_experts: 8, top_k: 2, intermediate_size: 24, form: {type: ternary}", ""},
    {"split_by_domain", "num_experts: 4, top_k: 2, intermediate_size: 6",
     "scheme: {type: split, order: sharing, measured_tokens: 256}"},
    {"split", "num_experts: 4, top_k: 2, intermediate_size: 6", "scheme: {type: split}"},
    {"shared_twice",
     "num_experts: 4, top_k: 2, intermediate_size: 24, shared: {num_experts: 1, intermediate_size: "
     "24}",
     ""},
    {"shared_from_nothing",
     "num_experts: 4, top_k: 2, intermediate_size: 24, shared: {num_experts: 1, intermediate_size: "
     "5}",
     ""}};

class InexactScheme : public ::testing::TestWithParam<Exact> {};

TEST_P(InexactScheme, SaysSo) {
  const Dense dense("f64");
  const UpcyclingReceipt receipt =
      receipt_of(dense, {GetParam().experts, GetParam().upcycle, "f64"});
  EXPECT_GT(receipt.parity->relative_difference(), 1e-4);
  EXPECT_GT(receipt.parity->mean_divergence, 0.0);
  EXPECT_TRUE(says_it_departs(receipt)) << ::testing::PrintToString(receipt.notes);
}

INSTANTIATE_TEST_SUITE_P(Upcycling, InexactScheme, ::testing::ValuesIn(kInexact),
                         [](const auto& test) { return test.param.name; });

Tagged router_of(std::string_view settings) {
  return tiny_recipe(
             fmt::format("model: {{experts: {{num_experts: 64, router: {{{}}}}}}}", settings))
      .model.routed_layers()
      .front()
      ->router;
}

TEST(UpcyclingScale, IsThatOfThePage) {
  const Tagged as_is = router_of("weights: as_is");
  // E8G8T8, E8G1T1, E8G1T2, E8G8T16 of arXiv 2410.07524.
  EXPECT_DOUBLE_EQ(upcycling_scale(as_is, 64, 8, 8), 64);
  EXPECT_DOUBLE_EQ(upcycling_scale(as_is, 8, 1, 1), 8);
  EXPECT_DOUBLE_EQ(upcycling_scale(as_is, 8, 2, 1), 4);
  EXPECT_DOUBLE_EQ(upcycling_scale(as_is, 64, 16, 8), 32);
  EXPECT_DOUBLE_EQ(upcycling_scale(router_of("weights: renormalise"), 64, 8, 8), 8);
  EXPECT_DOUBLE_EQ(upcycling_scale(router_of("weights: softmax_after, scale: 2"), 64, 8, 8), 4);
  EXPECT_DOUBLE_EQ(upcycling_scale(router_of("scores: sigmoid, weights: as_is"), 64, 8, 1), 0.25);
  EXPECT_DOUBLE_EQ(upcycling_scale(router_of("weights: straight_through, scale: 2"), 64, 4, 8), 1);
  // One sigmoid score is not divided by itself.
  const Tagged sigmoid = router_of("scores: sigmoid, weights: renormalise");
  EXPECT_DOUBLE_EQ(upcycling_scale(sigmoid, 64, 1, 1), 2);
  EXPECT_DOUBLE_EQ(upcycling_scale(sigmoid, 64, 2, 1), 1);
}

/// [rows, columns] of an array as double.
std::vector<double> values_of(const StateArray& array) {
  const auto values = array.values<double>();
  return {values.begin(), values.end()};
}

/// Neuron i of a dense feed-forward or of expert e: its three vectors, one behind the other.
std::vector<double> neuron(const StateDict& state, const std::string& layer, int64_t width,
                           int64_t e, int64_t i) {
  std::vector<double> result;
  for (const char* name : {"w_gate", "w_up"}) {
    const auto values = values_of(state.at(layer + name));
    const auto first = values.begin() + (e * width + i) * kHidden;
    result.insert(result.end(), first, first + kHidden);
  }
  const auto down = values_of(state.at(layer + std::string("w_down")));
  for (int64_t d = 0; d < kHidden; ++d) {
    result.push_back(down[static_cast<size_t>((e * kHidden + d) * width + i)]);
  }
  return result;
}

TEST(DropUpcycling, KeepsWholeNeuronsAndDrawsTheOthersAnew) {
  const Dense dense("f64");
  sluice::Run run = make_run(recipe_of(dense, {"num_experts: 4, top_k: 2, intermediate_size: 24",
                                               "scheme: {type: drop, ratio: 0.5}", "f64"}));
  const StateDict state = state_of(run);
  std::vector<std::vector<double>> known;
  for (int64_t i = 0; i < kDenseWidth; ++i) {
    known.push_back(
        neuron(dense.checkpoint().state, "model/layers.1.feed_forward.", kDenseWidth, 0, i));
  }
  std::vector<std::vector<size_t>> survivors(4);
  for (int64_t e = 0; e < 4; ++e) {
    for (int64_t i = 0; i < kDenseWidth; ++i) {
      const auto own = neuron(state, "model/layers.1.experts.", kDenseWidth, e, i);
      const auto found = std::ranges::find(known, own);
      if (found == known.end()) {
        // Redrawn in all three matrices: nothing of a dense neuron is left.
        for (const auto& other : known) EXPECT_NE(own.front(), other.front());
        for (const auto& other : known) EXPECT_NE(own.back(), other.back());
      } else {
        survivors[static_cast<size_t>(e)].push_back(static_cast<size_t>(found - known.begin()));
      }
    }
    EXPECT_EQ(survivors[static_cast<size_t>(e)].size(), 12U);
  }
  EXPECT_NE(survivors[0], survivors[1]) << "every expert has a set of its own";
}

TEST(DropUpcycling, DrawsFromTheMeanAndDeviationOfWhatItReplaces) {
  constexpr int64_t kWide = 2000;
  StateArray dense{ElementType::f64, {kWide, 2}, {}};
  dense.bytes.resize(kWide * 2 * sizeof(double));
  auto* values = reinterpret_cast<double*>(dense.bytes.data());
  for (int64_t i = 0; i < 2 * kWide; ++i) values[i] = 3.0 + std::sin(static_cast<double>(i));
  StateArray experts{ElementType::f64, {1, kWide, 2}, {}};
  experts.bytes.resize(dense.bytes.size());
  LayerNeurons plan;
  plan.experts.push_back({neurons_in_order(kWide), std::vector<uint8_t>(kWide, 1)});
  const StateArray* const models[] = {&dense};
  fill_experts(plan, {2, kWide}, {Matrix::gate, "w"}, 1, models, experts);
  double mean = 0.0;
  double square = 0.0;
  for (const double value : values_of(experts)) {
    mean += value / (2.0 * kWide);
    square += value * value / (2.0 * kWide);
  }
  // Five standard errors: sigma = 1 / sqrt 2 over 4000 numbers.
  EXPECT_NEAR(mean, 3.0, 5 * 0.7071 / std::sqrt(4000.0));
  EXPECT_NEAR(std::sqrt(square - mean * mean), 0.7071, 5 * 0.7071 / std::sqrt(8000.0));
}

TEST(VirtualGroups, ShareARouterRow) {
  const Dense dense("f64");
  sluice::Run run = make_run(recipe_of(dense, {"num_experts: 8, top_k: 4, intermediate_size: 6",
                                               "scheme: {type: virtual_groups}", "f64"}));
  const StateDict state = state_of(run);
  const std::vector<double> rows = values_of(state.at("model/layers.3.router.weight"));
  for (int64_t e = 0; e < 8; ++e) {
    for (int64_t d = 0; d < kHidden; ++d) {
      const auto at = [&](int64_t expert) {
        return rows[static_cast<size_t>(expert * kHidden + d)];
      };
      EXPECT_EQ(at(e), at(e / 4 * 4));
    }
  }
  EXPECT_NE(rows[0], rows[4 * kHidden]);
  // Expert 6 is the third slice of the second copy: neurons 12 to 17, w_down times G = 4.
  auto expected =
      neuron(dense.checkpoint().state, "model/layers.3.feed_forward.", kDenseWidth, 0, 13);
  for (int64_t d = 0; d < kHidden; ++d) expected[static_cast<size_t>(2 * kHidden + d)] *= 4;
  EXPECT_EQ(neuron(state, "model/layers.3.experts.", 6, 6, 1), expected);
}

TEST(SplitUpcycling, SharesOutEveryNeuronOnce) {
  const Dense dense("f64");
  for (const std::string order : {"in_order", "random", "clusters"}) {
    sluice::Run run = make_run(recipe_of(
        dense, {"num_experts: 8, top_k: 2, intermediate_size: 4, shared: {num_experts: 1, "
                "intermediate_size: 8}",
                fmt::format("scheme: {{type: split, order: {}}}, scale: 1", order), "f64"}));
    const StateDict state = state_of(run);
    // Two copies of four parts: the shared expert and each copy have every neuron once.
    for (int64_t copy = 0; copy < 2; ++copy) {
      std::vector<std::vector<double>> found;
      for (int64_t i = 0; i < 8; ++i) {
        found.push_back(neuron(state, "model/layers.1.shared_experts.", 8, 0, i));
      }
      for (int64_t e = 4 * copy; e < 4 * copy + 4; ++e) {
        for (int64_t i = 0; i < 4; ++i) {
          found.push_back(neuron(state, "model/layers.1.experts.", 4, e, i));
        }
      }
      std::vector<std::vector<double>> expected;
      for (int64_t i = 0; i < kDenseWidth; ++i) {
        expected.push_back(
            neuron(dense.checkpoint().state, "model/layers.1.feed_forward.", kDenseWidth, 0, i));
      }
      std::ranges::sort(found);
      std::ranges::sort(expected);
      EXPECT_EQ(found, expected) << order << ", copy " << copy;
    }
  }
}

TEST(SplitUpcycling, ClustersHoldNeuronsThatAreAlike) {
  // Three directions, four neurons each, in turns.
  constexpr int64_t kWide = 12;
  StateArray gate{ElementType::f64, {kWide, 3}, {}};
  gate.bytes.resize(kWide * 3 * sizeof(double));
  auto* values = reinterpret_cast<double*>(gate.bytes.data());
  for (int64_t i = 0; i < kWide; ++i) {
    for (int64_t d = 0; d < 3; ++d) {
      values[i * 3 + d] = (i % 3 == d ? 1.0 : 0.05 * std::cos(static_cast<double>(i + d))) *
                          static_cast<double>(1 + i);
    }
  }
  const Dense dense;
  const Recipe recipe =
      recipe_of(dense, {"intermediate_size: 4", "scheme: {type: split, order: clusters}"});
  const auto& config = dynamic_cast<const UpcycleConfig&>(*recipe.upcycle);
  const auto scheme = upcycling_registry().at("split").make(*config.scheme.config);
  const LayerNeurons plan = scheme->choose({.name = "layers.1",
                                            .seed = 1,
                                            .num_experts = 3,
                                            .top_k = 1,
                                            .expert_width = 4,
                                            .shared_width = 0,
                                            .dense_width = kWide,
                                            .hidden_size = 3,
                                            .dense_gate = gate});
  for (const NeuronChoice& expert : plan.experts) {
    for (const int32_t source : expert.source) EXPECT_EQ(source % 3, expert.source[0] % 3);
  }
}

TEST(Upcycling, KeepsOrResetsWhatItIsAskedTo) {
  const Dense dense("f64");
  const Setting all_kept{"num_experts: 8, top_k: 2, intermediate_size: 12",
                         "scheme: {type: virtual_groups}, optimizer: keep, step: keep, data: keep",
                         "f64"};
  sluice::Run kept = make_run(recipe_of(dense, all_kept));
  const StateDict state = state_of(kept);
  EXPECT_EQ(kept.state().step, kDenseSteps);
  EXPECT_EQ(state.at("data/loader"), dense.checkpoint().state.at("data/loader"));
  EXPECT_EQ(state.at("optim/layers.0.attention.w_q/m"),
            dense.checkpoint().state.at("optim/layers.0.attention.w_q/m"));
  // Expert 3 is the second half; moments are not scaled.
  const auto moments = values_of(state.at("optim/layers.1.experts.w_up/v"));
  const auto dense_moments =
      values_of(dense.checkpoint().state.at("optim/layers.1.feed_forward.w_up/v"));
  EXPECT_EQ(moments[3 * 12 * kHidden], dense_moments[12 * kHidden]);
  EXPECT_NE(moments[3 * 12 * kHidden], 0.0);
  // Routers are new.
  EXPECT_THAT(kept.upcycling()->notes, Contains(AllOf(HasSubstr("optimizer: "),
                                                      HasSubstr("arrays of moments kept"))));
  EXPECT_THAT(kept.upcycling()->notes, Contains("schedules: kept, they go on at step 3"));

  Setting reset = all_kept;
  reset.upcycle = "scheme: {type: virtual_groups}";
  sluice::Run fresh = make_run(recipe_of(dense, reset));
  EXPECT_EQ(fresh.state().step, 0);
  const auto zeros = values_of(state_of(fresh).at("optim/layers.1.experts.w_up/v"));
  EXPECT_EQ(std::ranges::count(zeros, 0.0), std::ssize(zeros));
  EXPECT_THAT(fresh.upcycling()->notes, Contains("step: reset"));
  EXPECT_THAT(fresh.upcycling()->notes, Contains("schedules: reset, they begin at step 0"));
}

TEST(Upcycling, KeepsSchedulesAndStepsApart) {
  const Dense dense;
  const auto run_of = [&](const std::string& upcycle) {
    return make_run(recipe_of(dense, {"num_experts: 4, top_k: 2, intermediate_size: 24", upcycle,
                                      "f32", "train: {steps: 10}"}));
  };
  sluice::Run ahead = run_of("step: reset, schedule: keep");
  EXPECT_EQ(ahead.progress().step, 0);
  EXPECT_EQ(ahead.schedule().step, kDenseSteps);
  EXPECT_EQ(ahead.schedule().tokens, dense.checkpoint().meta.tokens);
  EXPECT_EQ(ahead.schedule().total_steps, 10 + kDenseSteps);
  EXPECT_THAT(ahead.upcycling()->notes, Contains("schedules: kept, they go on at step 3"));

  sluice::Run anew = run_of("step: keep, schedule: reset");
  EXPECT_EQ(anew.progress().step, kDenseSteps);
  EXPECT_EQ(anew.schedule().step, 0);
  EXPECT_EQ(anew.schedule().total_steps, 10 - kDenseSteps);

  // What a run of its own gets from the checkpoint.
  (void)ahead.step();
  const std::string path = (dense.folder() / "ahead.h5").string();
  write_checkpoint(real_file_system(), path, ahead.checkpoint(std::nullopt));
  const Checkpoint saved = read_checkpoint(path);
  SingleRank communicator;
  const sluice::Run resumed(ahead.recipe(), communicator, saved, path);
  EXPECT_EQ(resumed.schedule().step, kDenseSteps + 1);
  EXPECT_EQ(progress_of(ahead.recipe(), saved.meta).step, kDenseSteps + 1);
}

TEST(Upcycling, RefusesToKeepMomentsThatAreNotThere) {
  const Dense dense;
  Checkpoint bare = dense.checkpoint();
  std::erase_if(bare.state, [](const auto& entry) { return entry.first.starts_with("optim/"); });
  const std::string path = (dense.folder() / "bare.h5").string();
  write_checkpoint(real_file_system(), path, bare);
  const Setting keep{"num_experts: 4, top_k: 2, intermediate_size: 24", "optimizer: keep"};
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_run(recipe_of(path, keep)); }),
              AllOf(HasSubstr("upcycle.optimizer: found keep"), HasSubstr("allowed reset")));
}

TEST(Upcycling, BeginsPredictionsFurtherAheadAnew) {
  const Dense dense;
  const UpcyclingReceipt receipt = receipt_of(
      dense, {"num_experts: 4, top_k: 2, intermediate_size: 24", "", "f32", "",
              "multi_token_prediction: {num_depths: 1}"});
  EXPECT_LE(receipt.parity->relative_difference(), 1e-5);
}

TEST(Parity, RefusesLogitsThatAreNoNumbers) {
  const Dense dense;
  Checkpoint broken = dense.checkpoint();
  auto& norm = broken.state.at("model/final_norm.weight");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(norm.bytes.data(), &nan, sizeof nan);
  const std::string path = (dense.folder() / "broken.h5").string();
  write_checkpoint(real_file_system(), path, broken);
  EXPECT_THAT(error_of<NumericError>([&] {
                (void)make_run(recipe_of(path, {"num_experts: 4, top_k: 2, intermediate_size: 24"}));
              }),
              HasSubstr("the model before gives a logit that is no finite number"));
}

TEST(Upcycling, GoesOnFromItsFirstCheckpointAsIfItHadNeverStopped) {
  const Dense dense;
  const Recipe recipe = recipe_of(dense, {"num_experts: 8, top_k: 2, intermediate_size: 24",
                                          "scheme: {type: drop}", "f32", "train: {steps: 4}"});
  testing::RecordingReporter reporter;
  const auto final_state = [](const std::filesystem::path& folder) {
    StateDict state = read_checkpoint(folder / "checkpoints" / checkpoint_name(4)).state;
    state.erase("run/seconds");
    return state;
  };
  (void)Trainer(recipe, {.folder = dense.folder() / "straight"}, reporter).run();
  const RunSummary begun = Trainer(recipe, {.folder = dense.folder() / "in_two"}, reporter).start();
  EXPECT_EQ(begun.reason, StopReason::not_started);
  EXPECT_TRUE(std::filesystem::exists(dense.folder() / "in_two" / "upcycling.json"));
  std::filesystem::remove(dense.path());  // the dense checkpoint is needed no more
  (void)Trainer(recipe, {.folder = dense.folder() / "in_two"}, reporter).run();
  EXPECT_THAT(testing::differing_arrays(final_state(dense.folder() / "straight"),
                                        final_state(dense.folder() / "in_two")),
              IsEmpty());
}

TEST(Upcycling, RefusesWhatDoesNotFit) {
  const Dense dense;
  const auto refusal = [&](const std::string& experts, const std::string& upcycle = "",
                           const std::string& more = "", const std::string& model = "") {
    return error_of<ConfigError>([&] {
      (void)make_run(recipe_of(dense, {experts, upcycle, "f32", more, model}));
    });
  };
  EXPECT_THAT(refusal("intermediate_size: 12"),
              HasSubstr("upcycle.scheme copy: model.experts.intermediate_size is 12, the dense "
                        "feed-forward of layers.1 is 24 wide"));
  EXPECT_THAT(refusal("intermediate_size: 7", "scheme: {type: virtual_groups}"),
              HasSubstr("allowed what divides the width 24"));
  EXPECT_THAT(refusal("num_experts: 6, intermediate_size: 6", "scheme: {type: virtual_groups}"),
              HasSubstr("model.experts.num_experts is 6, allowed a multiple of 4"));
  EXPECT_THAT(refusal("num_experts: 5, intermediate_size: 12", "scheme: {type: split}"),
              HasSubstr("allowed a multiple of the 2 parts"));
  EXPECT_THAT(refusal("intermediate_size: 24", "", "", "attention: {rope_theta: 500}"),
              HasSubstr("model.attention.rope_theta: 10000"));
  EXPECT_THAT(refusal("intermediate_size: 24", "", "", "pattern: \"(AE)x3\""),
              HasSubstr("has 6 sublayers"));
  EXPECT_THAT(refusal("intermediate_size: 24, form: {type: mlp}"),
              HasSubstr("model.experts.form is mlp, allowed swiglu"));
  EXPECT_THAT(refusal("intermediate_size: 24", "", "train: {init_from: other.h5}"),
              HasSubstr("upcycle: given beside train.init_from"));
  EXPECT_THAT(error_of<ConfigError>([&] {
                (void)tiny_dense_recipe(fmt::format("upcycle: {{from: {}}}", dense.path()));
              }),
              HasSubstr("upcycle: given, but no symbol of model.pattern is an expert layer"));
  EXPECT_THAT(refusal("intermediate_size: 24", "step: keep", "train: {steps: 3}"),
              HasSubstr("has done 3 steps and the run has 3 steps (train.steps): nothing is left"));
  // The second trap: weights that sum to 1 over one expert are always 1.
  EXPECT_THAT(refusal("top_k: 1, intermediate_size: 24"), HasSubstr("as_is"));
  EXPECT_THAT(refusal("top_k: 1, intermediate_size: 24, router: {weights: softmax_after}"),
              HasSubstr("as_is"));
  EXPECT_THAT(refusal("top_k: {type: linear, from: 2, to: 1, over: 2 steps}, intermediate_size: 24"),
              HasSubstr("as_is"));
}

}  // namespace
}  // namespace sluice
