// FlexOlmo: experts trained apart, put together, and taken out again.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "autograd/support/rng.h"
#include "tests/support/error_of.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/train/transforms/upcycling_runs.h"
#include "train/model_input.h"
#include "train/transforms/leave_out.h"

namespace sluice {
namespace {

using testing::branches_of;
using testing::Dense;
using testing::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::make_run;
using testing::recipe_of;
using testing::Setting;
using testing::state_of;

constexpr const char* kFreeze =
    "train: {freeze: [\"embedding*\", \"layers.*.attention.*\", \"*norm*\"], freeze_experts: [0]}\n"
    "balance: {type: none}\n";
constexpr const char* kRouter = "router: {type: domain_informed}";

Setting owner(std::string_view sections = kFreeze) {
  return {fmt::format("num_experts: 2, top_k: 2, intermediate_size: 24, {}", kRouter), "", "f64",
          std::string(sections)};
}

/// An owner's run from the public model: its checkpoint after some steps.
std::string owner_file(const Dense& dense, const std::string& name, int64_t steps,
                       std::string_view sections = kFreeze) {
  const std::string path = (dense.folder() / (name + ".h5")).string();
  (void)testing::trained_checkpoint(recipe_of(dense, owner(sections)), steps, path);
  return path;
}

Setting merge(std::initializer_list<std::string> owners, int64_t top_k = 2) {
  return {fmt::format("num_experts: {}, top_k: {}, intermediate_size: 24, {}", owners.size() + 1,
                      top_k, kRouter),
          branches_of(owners) + ", scheme: {type: owners}", "f64", "balance: {type: none}"};
}

std::vector<double> slice(const StateArray& array, size_t expert) {
  const auto values = array.values<double>();
  const size_t size = values.size() / static_cast<size_t>(array.dims[0]);
  return {values.begin() + static_cast<std::ptrdiff_t>(expert * size),
          values.begin() + static_cast<std::ptrdiff_t>((expert + 1) * size)};
}

TEST(OwnersPair, ComputesThePublicModelAtFirstAndTrainsItsExpertAlone) {
  const Dense dense("f64");
  sluice::Run run = make_run(recipe_of(dense, owner()));
  EXPECT_LE(run.upcycling()->parity->relative_difference(), 1e-12);
  const StateDict before = state_of(run);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run.step().applied);
  const StateDict after = state_of(run);
  for (const auto& [path, array] : before) {
    if (!path.starts_with("model/")) continue;
    const bool by_expert = path.find(".experts.") != std::string::npos ||
                           path.find(".router.") != std::string::npos;
    if (!by_expert) {
      EXPECT_EQ(after.at(path), array) << path;
    } else {
      // Weight decay is on: nothing but taking it back keeps the frozen slice.
      EXPECT_EQ(slice(after.at(path), 0), slice(array, 0)) << path;
      EXPECT_NE(slice(after.at(path), 1), slice(array, 1)) << path;
    }
  }
}

TEST(Owners, AreMergedBitForBitInAnyOrder) {
  const Dense dense("f64");
  const std::string a = owner_file(dense, "a", 2);
  const std::string b = owner_file(dense, "b", 4);
  const auto merged = [&](std::initializer_list<std::string> owners) {
    sluice::Run run = make_run(recipe_of(dense, merge(owners)));
    return state_of(run);
  };
  const StateDict ab = merged({a, b});
  const StateDict ba = merged({b, a});
  const StateDict of_a = read_checkpoint(a).state;
  for (const auto& [path, array] : ab) {
    if (!path.starts_with("model/")) continue;
    const bool by_expert = path.find(".experts.") != std::string::npos ||
                           path.find(".router.") != std::string::npos;
    if (!by_expert) {
      EXPECT_EQ(array, dense.checkpoint().state.at(path)) << path;
      continue;
    }
    EXPECT_EQ(slice(array, 0), slice(of_a.at(path), 0)) << path;
    EXPECT_EQ(slice(array, 1), slice(of_a.at(path), 1)) << path;
    EXPECT_EQ(slice(array, 0), slice(ba.at(path), 0)) << path;
    EXPECT_EQ(slice(array, 1), slice(ba.at(path), 2)) << path;
    EXPECT_EQ(slice(array, 2), slice(ba.at(path), 1)) << path;
  }
}

uint64_t hash_of(const std::vector<double>& values) {
  return hash_name(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
}

TEST(LeavingOut, TakesEverythingOfAnExpertAndNothingElse) {
  const Dense dense("f64");
  sluice::Run run = make_run(
      recipe_of(dense, merge({owner_file(dense, "a", 2), owner_file(dense, "b", 4)})));
  const Checkpoint whole = run.checkpoint(std::nullopt);
  const Checkpoint rest = leave_out_experts(whole, "whole.h5", {1});
  // A manifest of hashes, slice by slice where there are slices.
  const auto manifest = [](const StateDict& state) {
    std::multiset<uint64_t> hashes;
    for (const auto& [path, array] : state) {
      if (!path.starts_with("model/")) continue;
      const bool by_expert = path.find(".experts.") != std::string::npos ||
                             path.find(".router.") != std::string::npos;
      const size_t parts = by_expert ? static_cast<size_t>(array.dims[0]) : 1;
      for (size_t e = 0; e < parts; ++e) {
        const auto values = array.values<double>();
        hashes.insert(hash_of(by_expert ? slice(array, e)
                                        : std::vector<double>(values.begin(), values.end())));
      }
    }
    return hashes;
  };
  std::multiset<uint64_t> expected = manifest(whole.state);
  for (const auto& [path, array] : whole.state) {
    if (path.starts_with("model/") && (path.find(".experts.") != std::string::npos ||
                                       path.find(".router.") != std::string::npos)) {
      expected.erase(expected.find(hash_of(slice(array, 1))));
    }
  }
  EXPECT_EQ(manifest(rest.state), expected);
}

/// The logits of some tokens, and which experts they chose in the last layer.
struct Reading {
  std::vector<double> logits;  // [N, V]
  std::vector<int32_t> chosen;  // [N, layers k]
};

class Chosen final : public RoutingObserver {
 public:
  void observe(const RoutingObservation& observation) override {
    layers.push_back(observation.selection.expert);
  }
  std::vector<std::vector<int32_t>> layers;
};

Reading read(const Checkpoint& checkpoint, int64_t tokens) {
  TrainedModel trained = build_trained_model(checkpoint, "model.h5");
  Batch batch;
  for (int32_t i = 0; i < tokens; ++i) {
    // One token to a document, so that none reads another.
    batch.tokens.push_back(i);
    batch.targets.push_back(kIgnoredTarget);
    batch.positions.push_back(0);
    batch.document_offsets.push_back(i + 1);
    batch.document_domain.push_back(0);
  }
  batch.end_sequence(0);
  const ModelInput input = make_model_input(*trained.pool, batch);
  Tape tape(*trained.pool);
  const NoGrad no_grad(tape);
  const ForwardContext context{
      .tape = tape, .layout = input.layout, .routing = trained.routing.get()};
  Chosen chosen;
  trained.routing->begin_evaluation();
  Reading reading;
  {
    const RoutingWatch watch(*trained.routing, chosen);
    const Tensor hidden = trained.model->forward(context, input.tokens).hidden;
    const Tensor logits = trained.model->logits(context, hidden);
    reading.logits.assign(logits.span<double>().begin(), logits.span<double>().end());
  }
  trained.routing->end_evaluation();
  for (int64_t n = 0; n < tokens; ++n) {
    for (const std::vector<int32_t>& layer : chosen.layers) {
      const size_t k = layer.size() / static_cast<size_t>(tokens);
      for (size_t j = 0; j < k; ++j) reading.chosen.push_back(layer[static_cast<size_t>(n) * k + j]);
    }
  }
  return reading;
}

TEST(LeavingOut, LeavesTokensAloneThatDidNotChooseTheExpert) {
  const Dense dense("f64");
  // Long enough apart that rows differ: the mean of more documents of one kind.
  sluice::Run run = make_run(recipe_of(
      dense, merge({owner_file(dense, "a", 2), owner_file(dense, "b", 5), owner_file(dense, "c", 8)})));
  const Checkpoint whole = run.checkpoint(std::nullopt);
  constexpr int64_t kTokens = 97;
  const Reading before = read(whole, kTokens);
  int64_t untouched = 0;
  for (const int64_t expert : {1, 2, 3}) {
    const Reading after = read(leave_out_experts(whole, "whole.h5", {expert}), kTokens);
    const size_t choices = before.chosen.size() / kTokens;
    const size_t vocabulary = before.logits.size() / kTokens;
    for (size_t n = 0; n < kTokens; ++n) {
      const auto first = before.chosen.begin() + static_cast<std::ptrdiff_t>(n * choices);
      if (std::find(first, first + static_cast<std::ptrdiff_t>(choices), expert) !=
          first + static_cast<std::ptrdiff_t>(choices)) {
        continue;
      }
      ++untouched;
      for (size_t v = 0; v < vocabulary; ++v) {
        EXPECT_NEAR(after.logits[n * vocabulary + v], before.logits[n * vocabulary + v], 1e-12);
      }
    }
  }
  EXPECT_GT(untouched, 0);
}

TEST(LeavingOut, OfAllOwnersIsThePublicModel) {
  const Dense dense("f64");
  sluice::Run run =
      make_run(recipe_of(dense, merge({owner_file(dense, "a", 2), owner_file(dense, "b", 4)})));
  const Checkpoint rest = leave_out_experts(run.checkpoint(std::nullopt), "whole.h5", {1, 2});
  const Reading own = read(rest, 20);
  const Reading dense_reading = read(dense.checkpoint(), 20);
  ASSERT_EQ(own.logits.size(), dense_reading.logits.size());
  for (size_t i = 0; i < own.logits.size(); ++i) {
    EXPECT_NEAR(own.logits[i], dense_reading.logits[i], 1e-12);
  }
}

TEST(LeavingOut, SaysWhatItCannotDo) {
  const Dense dense("f64");
  sluice::Run run = make_run(recipe_of(dense, {"num_experts: 4, top_k: 2, intermediate_size: 24", "",
                                               "f64"}));
  const Checkpoint whole = run.checkpoint(std::nullopt);
  const auto refusal = [&](const Checkpoint& from, const std::vector<int64_t>& experts) {
    return error_of<ConfigError>([&] { (void)leave_out_experts(from, "m.h5", experts); });
  };
  EXPECT_THAT(refusal(whole, {4}), HasSubstr("m.h5: expert 4 cannot be left out"));
  EXPECT_THAT(refusal(whole, {0, 1, 2, 3}), HasSubstr("all 4 experts"));
  EXPECT_THAT(refusal(dense.checkpoint(), {0}), HasSubstr("has no layer of experts"));
  EXPECT_THAT(refusal(testing::made_up_checkpoint(R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, diversify: {steps: 1}}}
balance: {type: none}
)"),
                      {0}),
              HasSubstr("m.h5: after step 0 the experts are not made yet"));
  EXPECT_THAT(parse_expert_list("5,1-3,2"), ElementsAre(1, 2, 3, 5));
  for (const char* text : {"", "a", "1,", "3-1", "-1", "1;2"}) {
    EXPECT_THAT(error_of<ConfigError>([&] { (void)parse_expert_list(text); }),
                HasSubstr("allowed numbers of experts"))
        << text;
  }
}

TEST(Owners, MustHaveLeftThePublicModelAsItIs) {
  const Dense dense("f64");
  const std::string honest = owner_file(dense, "honest", 1);
  const auto refusal = [&](const Setting& plan) {
    return error_of<Error>([&] { (void)make_run(recipe_of(dense, plan)); });
  };
  const std::string thawed =
      owner_file(dense, "thawed", 1, "train: {freeze: [\"embedding*\"], freeze_experts: [0]}\n"
                 "balance: {type: none}\n");
  EXPECT_THAT(refusal(merge({honest, thawed})), HasSubstr("is not that of"));
  Setting few = merge({honest, honest});
  few.experts = "num_experts: 4, top_k: 2, intermediate_size: 24, router: {type: domain_informed}";
  EXPECT_THAT(refusal(few), HasSubstr("num_experts is 4, allowed 3"));
}

}  // namespace
}  // namespace sluice
