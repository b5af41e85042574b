// What every balancing method and every router owes a routing trace: a run that takes the decisions
// of its own trace is the same run, bit for bit.

#include <gtest/gtest.h>

#include <ostream>

#include "balance/make.h"
#include "layers/router.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/trace/trace_writer.h"

namespace sluice {
namespace {

using testing::ScratchFolder;
using testing::tiny_recipe;

constexpr int64_t kSteps = 3;

/// A balancer or a router, with recipes that it may stand in; the first that is allowed is taken.
struct Routing {
  std::string name;
  std::vector<std::string> recipes;
  friend void PrintTo(const Routing& routing, std::ostream* out) { *out << routing.name; }
};

std::vector<Routing> everything() {
  std::vector<Routing> all;
  for (const Choice& choice : balance_choices()) {
    const std::string balance = fmt::format("balance: {{type: {}}}", choice.name);
    const auto with = [&](std::string_view router) {
      return fmt::format("{}\nmodel: {{experts: {{router: {{type: {}}}}}}}", balance, router);
    };
    all.push_back({fmt::format("balance_{}", choice.name),
                   {balance, with("noisy_top_k"), with("null_experts")}});
  }
  all.push_back({"balance_selective_sinkhorn_planned",
                 {"balance: {type: selective_sinkhorn, probability: 1.0}"}});
  all.push_back({"balance_expert_choice_over_tokens",
                 {"balance: {type: expert_choice, over: tokens, coverage: 0.01}"}});
  all.push_back({"balance_none_with_capacity",
                 {"balance: {type: none}\nmodel: {experts: {capacity_factor: 0.8}}"}});
  for (const Choice& choice : router_choices()) {
    if (choice.name == "mixer") {
      all.push_back({"router_mixer",
                     {"balance: {type: none}\nmodel: {experts: {num_experts: 2, top_k: 1, router: "
                      "{type: mixer, domains: 2}}}"}});
      continue;
    }
    const auto with = [&](std::string_view options, int top_k) {
      return fmt::format(
          "balance: {{type: none}}\nmodel: {{experts: {{top_k: {}, router: {{type: {}{}}}}}}}",
          top_k, choice.name, options);
    };
    all.push_back({fmt::format("router_{}", choice.name),
                   {with("", 2), with("", 1), with(", weights: as_is", 1), with("", 4)}});
  }
  return all;
}

/// Losses and gradient norms of the first steps; recorded in `traces` when there is such a folder.
std::vector<double> train(const Recipe& recipe, const TraceFolder* traces) {
  SingleRank communicator;
  Run run(recipe, communicator);
  std::vector<double> figures;
  for (int64_t step = 1; step <= kSteps; ++step) {
    StepResult result;
    if (traces == nullptr) {
      result = run.step();
    } else {
      TraceWriter trace(traces->path_of(TraceKind::training, step),
                        {.step = step,
                         .vocab_size = run.model().vocab_size(),
                         .experts = run.model().experts_per_layer(),
                         .domains = run.data().domains},
                        64);
      const RoutingWatch watch(run.routing(), trace);
      result = run.step();
      trace.finish();
    }
    EXPECT_TRUE(result.applied) << result.problem;
    figures.insert(figures.end(),
                   {result.loss, result.auxiliary[0], result.auxiliary[1], result.grad_norm});
  }
  return figures;
}

class TraceOf : public ::testing::TestWithParam<Routing> {
 protected:
  /// The first recipe that is allowed, in two micro-batches.
  [[nodiscard]] static Recipe recipe() {
    std::string problems;
    for (const std::string& text : GetParam().recipes) {
      try {
        Recipe recipe = tiny_recipe(text);
        recipe.train.micro_batch = Duration{64, DurationUnit::tokens};
        return recipe;
      } catch (const ConfigError& error) {
        problems += std::string(error.what()) + "\n";
      }
    }
    throw ConfigError(problems);
  }

  ScratchFolder scratch_;
};

TEST_P(TraceOf, ReplaysToTheSameBits) {
  Recipe plain = recipe();
  plain.train.steps = {kSteps, DurationUnit::steps};
  const TraceFolder traces(scratch_.path());
  const std::vector<double> recorded = train(plain, &traces);

  auto config = std::make_shared<ReplayConfig>();
  config->from = scratch_.path().string();
  Recipe replayed = plain;
  replayed.train.replay = config;
  EXPECT_EQ(train(replayed, nullptr), recorded);

  replayed.train.recompute = Recompute::all;
  EXPECT_EQ(train(replayed, nullptr), recorded) << "with recomputation";
}

INSTANTIATE_TEST_SUITE_P(DefFiles, TraceOf, ::testing::ValuesIn(everything()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
