#include "train/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "autograd/support/error.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/trainer.h"

namespace sluice {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::RecordingReporter;
using testing::ScratchFolder;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

class RunLogTest : public ::testing::Test {
 protected:
  void train(const Recipe& recipe, const std::string& folder) {
    RecordingReporter reporter;
    Trainer trainer(recipe, {.folder = scratch_ / folder, .console = {&console_}}, reporter);
    (void)trainer.run();
  }
  std::vector<json> routing(const std::string& folder, const std::string& kind) const {
    std::vector<json> records;
    for (const json& record : testing::routing_in(scratch_ / folder)) {
      if (record.at("kind") == kind) records.push_back(record);
    }
    return records;
  }
  static std::vector<int64_t> steps_of(const std::vector<json>& records) {
    std::vector<int64_t> steps;
    for (const json& record : records) steps.push_back(record.at("step").get<int64_t>());
    return steps;
  }
  std::vector<json> metrics(const std::string& folder) const {
    std::vector<json> records;
    for (const std::string& line : testing::metrics_in(scratch_ / folder)) {
      records.push_back(json::parse(line));
    }
    return records;
  }
  static int64_t sum(const json& counts) {
    int64_t total = 0;
    for (const json& count : counts) total += count.get<int64_t>();
    return total;
  }

  ScratchFolder scratch_;
  std::ostringstream console_;
};

TEST_F(RunLogTest, LoadsAddUpToEveryAssignmentOfTheRun) {
  train(tiny_recipe("log: {every: 3 steps, loads: 3 steps}"), "run");
  const auto loads = routing("run", "load");
  EXPECT_THAT(steps_of(loads), ElementsAre(3, 6, 8));
  train(tiny_recipe("log: {every: 3 steps}"), "each");
  const auto each = routing("each", "load");
  EXPECT_THAT(steps_of(each), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  for (size_t layer = 0; layer < 2; ++layer) {
    int64_t coarse = 0;
    int64_t fine = 0;
    for (const json& record : loads) coarse += sum(record.at("load").at(layer));
    for (const json& record : each) fine += sum(record.at("load").at(layer));
    EXPECT_EQ(coarse, fine);
    EXPECT_GT(coarse, 8 * 2 * 100);  // top-2 of most of 128 tokens a step
  }
}

TEST_F(RunLogTest, LoadsEveryZeroStepsAreNone) {
  train(tiny_recipe("log: {loads: 0 steps, experts: 0 steps}"), "run");
  EXPECT_THAT(routing("run", "load"), IsEmpty());
  EXPECT_THAT(routing("run", "experts"), IsEmpty());
  EXPECT_THAT(routing("run", "probe"), Not(IsEmpty()));
}

TEST_F(RunLogTest, ProbesCountTheHeldOutTextByDomain) {
  train(tiny_recipe(), "run");
  const auto probes = routing("run", "probe");
  EXPECT_THAT(steps_of(probes), ElementsAre(4, 8));
  const json& probe = probes.back();
  EXPECT_EQ(probe.at("top_k"), 2);
  const int64_t tokens = probe.at("tokens").get<int64_t>();
  int64_t of_domains = 0;
  for (const auto& [name, domain] : probe.at("domains").items()) {
    of_domains += domain.at("tokens").get<int64_t>();
    EXPECT_EQ(sum(domain.at("chosen").at(1)), 2 * domain.at("tokens").get<int64_t>()) << name;
  }
  EXPECT_EQ(of_domains, tokens);
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(sum(probe.at("chosen").at(layer)), 2 * tokens);
    const json& together = probe.at("coactivation").at(layer);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(together.at(i).at(i), probe.at("chosen").at(layer).at(i));
      // With top-2, each of an expert's tokens has one partner.
      EXPECT_EQ(sum(together.at(i)), 2 * together.at(i).at(i).get<int64_t>());
    }
  }
}

TEST_F(RunLogTest, StepsThatRouteNothingHaveNoFiguresOfTheirLoad) {
  train(tiny_recipe("model: {experts: {diversify: {steps: 4}}}\n"
                    "train: {evaluate: {every: 2}}\n"
                    "log: {alarms: {patience: 0, quiet: 0}}"),
        "run");
  int64_t seen = 0;
  for (const json& record : metrics("run")) {
    const int64_t step = record.at("step").get<int64_t>();
    if (record.contains("train/loss")) {
      for (const char* name :
           {"load/spread", "load/spread/1", "router/entropy", "alarm/collapse"}) {
        EXPECT_EQ(record.contains(name), step > 4) << name << " of step " << step;
      }
      ++seen;
    } else {
      // The evaluation behind the fourth step is that of the spawned experts.
      EXPECT_EQ(record.contains("eval/max_violation"), step >= 4) << step;
    }
  }
  EXPECT_EQ(seen, 8);
  EXPECT_THAT(steps_of(routing("run", "probe")), ElementsAre(4, 6, 8));
}

TEST_F(RunLogTest, AStepWithoutATokenThatCountsHasNoLoss) {
  const int64_t experts[] = {4};
  RunState state(experts, 10);
  state.step = 3;
  state.skipped = 1;
  const RoutingSession nothing(std::vector<std::unique_ptr<Balancer>>{});
  const Record record =
      make_step_record(state, StepResult{.problem = "none has a loss", .empty = true}, nothing, {});
  EXPECT_EQ(record.find("train/loss"), nullptr);
  EXPECT_EQ(record.find("train/grad_norm"), nullptr);
  ASSERT_NE(record.find("train/skipped_steps"), nullptr);
  EXPECT_EQ(*record.find("train/skipped_steps"), 1.0);
}

TEST_F(RunLogTest, ExpertsShareGradientsAndMove) {
  train(tiny_recipe("log: {every: 1, experts: 4 steps}"), "run");
  const auto experts = routing("run", "experts");
  EXPECT_THAT(steps_of(experts), ElementsAre(4, 8));
  for (const json& shares : experts.back().at("gradient_share")) {
    const auto values = shares.get<std::vector<double>>();
    EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0), 1.0, 1e-12);
  }
  for (const json& ratios : experts.back().at("update_ratio")) {
    for (const json& ratio : ratios) EXPECT_GT(ratio.get<double>(), 0.0);
  }
  const auto records = metrics("run");
  EXPECT_TRUE(std::ranges::any_of(
      records, [](const json& record) { return record.contains("experts/update_ratio/1"); }));
}

TEST_F(RunLogTest, SaysEverythingAboutRouters) {
  train(tiny_recipe("log: {every: 4 steps, experts: 4 steps}"), "run");
  const json record = metrics("run").front();
  for (const std::string name :
       {"load/min_violation", "load/average_violation", "load/starved_experts",
        "load/largest_share", "load/effective_experts", "load/spread", "load/experts_per_token",
        "router/entropy", "router/logit_norm", "router/top_margin", "router/chosen_probability",
        "balance/bias_range", "experts/gradient_share", "experts/update_ratio",
        "experts/largest_update_ratio"}) {
    EXPECT_TRUE(record.contains(name)) << name;
    EXPECT_TRUE(record.contains(name + "/0")) << name;
    EXPECT_TRUE(record.contains(name + "/1")) << name;
  }
  EXPECT_EQ(record.at("load/experts_per_token"), 2.0);
  EXPECT_EQ(record.at("alarm/max_violation"), 0.0);
  const json evaluation = metrics("run").back();
  for (const std::string name :
       {"eval/specialisation", "eval/specialisation/a", "eval/specialisation/b",
        "eval/specialised_experts", "eval/domain_information", "eval/coactivation",
        "eval/congestion", "eval/flipped_tokens", "eval/fluctuation", "eval/fluctuation/1",
        "eval/experts_per_token", "eval/max_violation/0"}) {
    EXPECT_TRUE(evaluation.contains(name)) << name;
  }
}

TEST_F(RunLogTest, MeasuresHowManyExpertsATokenGets) {
  train(tiny_recipe("model: {experts: {top_k: 4, router: {type: top_p, threshold: 0.6}}}\n"
                    "balance: {type: entropy_loss}\nlog: {every: 8 steps}\n"
                    "train: {evaluate: {every: 8 steps}}"),
        "run");
  const double k = metrics("run").front().at("load/experts_per_token").get<double>();
  EXPECT_GT(k, 1.0);
  EXPECT_LT(k, 4.0);
  EXPECT_NE(k, std::floor(k));
}

TEST_F(RunLogTest, KeepsADenseRunFreeOfRouting) {
  train(tiny_dense_recipe(), "run");
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "run" / "routing.jsonl"));
}

TEST_F(RunLogTest, StaysSmallInALongRun) {
  train(tiny_recipe("train: {steps: 450, evaluate: {every: 1, max_tokens: 40}}\n"
                    "log: {every: 50, loads: auto, experts: auto}\ncheckpoint: {every: 1000}"),
        "run");
  EXPECT_LE(routing("run", "load").size(), 200u);
  EXPECT_LE(routing("run", "experts").size(), 50u);
  const auto probes = routing("run", "probe");
  EXPECT_LE(probes.size(), 200u);
  EXPECT_GE(probes.size(), 100u);
  const auto with = std::ranges::count_if(
      probes, [](const json& probe) { return probe.contains("coactivation"); });
  EXPECT_LE(with, 12);
  EXPECT_GE(with, 10);
  EXPECT_TRUE(probes.back().contains("coactivation"));
}

TEST_F(RunLogTest, TellsOfAnAlarmOnceInEveryPlace) {
  train(tiny_recipe("log: {sinks: [console, jsonl, routing], alarms: {logit_norm: 0}}"), "run");
  const auto alarms = routing("run", "alarm");
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_EQ(alarms[0].at("name"), "logit_norm");
  EXPECT_EQ(alarms[0].at("step"), 1);
  EXPECT_GT(alarms[0].at("value").get<double>(), 0.0);
  const std::string sentence = "alarm logit_norm: step 1, expert layer ";
  EXPECT_THAT(console_.str(), HasSubstr(sentence));
  EXPECT_EQ(console_.str().find(sentence), console_.str().rfind(sentence));
  for (const json& record : metrics("run")) {
    if (record.contains("train/loss")) {
      EXPECT_EQ(record.at("alarm/logit_norm"), 1.0);
    }
  }
}

TEST_F(RunLogTest, IsSilentWhileAllIsWell) {
  train(tiny_recipe("log: {sinks: [console, jsonl, routing]}"), "run");
  EXPECT_THAT(routing("run", "alarm"), IsEmpty());
  EXPECT_THAT(console_.str(), Not(HasSubstr("alarm")));
}

TEST(RunLogWatch, LooksAtRoutersOnlyWhereARecordFollows) {
  const ScratchFolder scratch;
  SingleRank alone;
  sluice::Run run(tiny_recipe("train: {steps: 6}"), alone);
  LogConfig config;
  config.every = {4, DurationUnit::steps};
  config.experts = Duration{3, DurationUnit::steps};
  config.sinks = {};
  const RunLog log(config, {.folder = scratch.path()}, run.sizes().steps);
  std::vector<int64_t> routers;
  std::vector<int64_t> experts;
  while (!run.finished()) {
    const StepWatch watch = log.watch_for(run);
    const StepResult result = run.step(watch);
    EXPECT_EQ(!result.routers.empty(), watch.routers);
    EXPECT_EQ(!result.experts.empty(), watch.experts);
    if (watch.routers) routers.push_back(run.state().step);
    if (watch.experts) experts.push_back(run.state().step);
  }
  EXPECT_THAT(routers, ElementsAre(4, 6));
  EXPECT_THAT(experts, ElementsAre(3, 6));
}

}  // namespace
}  // namespace sluice
