#include "train/report/run_records.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"

namespace sluice::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ScratchFolder;

class RunRecordsTest : public ::testing::Test {
 protected:
  void write(const std::string& name, std::string_view content) {
    std::ofstream(scratch_ / name, std::ios::binary) << content;
  }
  [[nodiscard]] RunRecords read() const {
    return read_run_records(RunFolder::open_for_reading(scratch_.path()));
  }
  template <class ErrorType>
  [[nodiscard]] std::string problem() const {
    try {
      (void)read();
    } catch (const ErrorType& error) {
      return error.what();
    }
    return "";
  }
  ScratchFolder scratch_;
};

constexpr std::string_view kMetrics =
    R"({"step":10,"tokens":100,"seconds":1.5,"train/loss":5.0,"load/max_violation/10":0.1,"load/max_violation/2":0.2,"load/experts/0":[1,3],"load/experts/1":[2,2]}
{"step":20,"tokens":200,"seconds":3.0,"train/loss":null,"load/experts/0":[3,1],"load/experts/1":[2,2]}
{"step":20,"tokens":200,"seconds":3.5,"eval/loss":4.5}
)";

TEST_F(RunRecordsTest, ReadsMetricsAsCurves) {
  write("metrics.jsonl", kMetrics);
  const RunRecords records = read();
  EXPECT_EQ(records.step, 20);
  EXPECT_EQ(records.tokens, 200);
  EXPECT_EQ(records.seconds, 3.5);
  ASSERT_NE(records.find("train/loss"), nullptr);
  EXPECT_EQ(records.find("train/loss")->size(), 2);  // null is a gap
  EXPECT_EQ(records.find("train/loss")->last(), 5.0);
  EXPECT_EQ(records.find("eval/loss")->last_point(), (Point{20, 4.5}));
  EXPECT_EQ(records.find("no/such"), nullptr);
}

TEST_F(RunRecordsTest, OrdersTheLayersOfAFamilyByNumber) {
  write("metrics.jsonl", kMetrics);
  const RunRecords records = read();
  const auto layers = records.family("load/max_violation");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].first, "2");
  EXPECT_EQ(layers[1].first, "10");
}

TEST_F(RunRecordsTest, TakesTheLoadsOfRecordedStepsWhenThereAreNoOthers) {
  write("metrics.jsonl", kMetrics);
  const RunRecords records = read();
  EXPECT_TRUE(records.loads_are_samples);
  EXPECT_THAT(records.loads.total(), ElementsAre(ElementsAre(4, 4), ElementsAre(4, 4)));
  ASSERT_EQ(records.loads.frames().size(), 2u);
  EXPECT_EQ(records.loads.frames()[1].first_step, 11);
}

TEST_F(RunRecordsTest, ReadsRoutingRecordsAndPassesOverUnknownKinds) {
  write("metrics.jsonl", kMetrics);
  write("routing.jsonl",
        R"({"kind":"load","step":10,"tokens":100,"load":[[5,7],[6,6]]}
{"kind":"comet","step":11,"tail":"long"}
{"kind":"load","step":20,"tokens":200,"load":[[7,5],[12,0]]}
{"kind":"experts","step":20,"gradient_share":[[0.25,0.75],[0.5,0.5]],"update_ratio":[[0.1,null],[0.2,0.3]]}
{"kind":"probe","step":20,"tokens":8,"top_k":2,"chosen":[[8,8],[8,8]],"coactivation":[[[8,3],[3,8]],[]],"domains":{"code":{"tokens":3,"chosen":[[3,1],[2,2]]},"prose":{"tokens":5,"chosen":[[5,7],[6,6]]}}}
{"kind":"alarm","step":12,"name":"dead_experts","layer":1,"value":1,"threshold":0,"advice":"raise it"}
{"kind":"alarm","step":10,"name":"max_violation","layer":null,"value":2.5,"threshold":2}
{"kind":"alarm","step":19,"name":"dead_experts","layer":1,"value":3,"threshold":0,"advice":"raise it"}
{"kind":"load","ste)");
  const RunRecords records = read();
  EXPECT_FALSE(records.loads_are_samples);
  EXPECT_THAT(records.loads.total(), ElementsAre(ElementsAre(12, 12), ElementsAre(18, 6)));
  ASSERT_TRUE(records.learning);
  EXPECT_EQ(records.learning->gradient_share[0][1], 0.75);
  EXPECT_TRUE(std::isnan(records.learning->update_ratio[0][1]));
  ASSERT_TRUE(records.probe);
  EXPECT_EQ(records.probe->tokens, 8);
  EXPECT_EQ(records.probe->domains[1].name, "prose");
  EXPECT_EQ(records.probe->domains[1].chosen[0][1], 7);
  ASSERT_TRUE(records.pairs);
  EXPECT_EQ(records.pairs->coactivation[0][1][0], 3);
  EXPECT_TRUE(records.pairs->coactivation[1].empty());
  ASSERT_EQ(records.alarms.size(), 2u);
  EXPECT_EQ(records.alarms[0].name, "max_violation");
  EXPECT_EQ(records.alarms[0].layer, std::nullopt);
  EXPECT_EQ(records.alarms[1].times, 2);
  EXPECT_EQ(records.alarms[1].first_step, 12);
  EXPECT_EQ(records.alarms[1].last_step, 19);
  EXPECT_EQ(records.alarms[1].value, 3.0);
}

TEST_F(RunRecordsTest, KeepsTheLastCoActivationWhenLaterProbesHaveNone) {
  write("metrics.jsonl", kMetrics);
  write(
      "routing.jsonl",
      R"({"kind":"probe","step":10,"tokens":8,"top_k":2,"chosen":[[8,8]],"coactivation":[[[8,3],[3,8]]],"domains":{}}
{"kind":"probe","step":20,"tokens":8,"top_k":2,"chosen":[[9,7]],"domains":{}}
)");
  const RunRecords records = read();
  EXPECT_EQ(records.probe->step, 20);
  EXPECT_EQ(records.pairs->step, 10);
}

TEST_F(RunRecordsTest, SaysWhatIsMissing) {
  EXPECT_THAT(problem<ConfigError>(),
              HasSubstr("nothing to report: no record in its metrics.jsonl"));
  write("metrics.jsonl", "{\"step\":1,\"tok");
  EXPECT_THAT(problem<ConfigError>(), HasSubstr("nothing to report"));
}

TEST_F(RunRecordsTest, NamesTheLineThatIsNoRecord) {
  write("metrics.jsonl",
        fmt::format("{}{}", kMetrics, "{\"step\":30,\"tokens\":\"many\",\"seconds\":1}\n"));
  EXPECT_THAT(problem<DataError>(), HasSubstr("metrics.jsonl:4: type must be number"));
  write("metrics.jsonl", fmt::format("{}{}", kMetrics, "{\"loss\":30}\n"));
  EXPECT_THAT(problem<DataError>(), HasSubstr("metrics.jsonl:4: key 'step' not found"));
  write("metrics.jsonl", kMetrics);
  write("routing.jsonl", "{\"kind\":\"load\",\"step\":1,\"load\":[[1,\"x\"]]}\n");
  EXPECT_THAT(problem<DataError>(), HasSubstr("routing.jsonl:1: type must be number"));
}

TEST(LoadFrames, JoinsNeighboursBySumsWhenThereAreTooMany) {
  LoadFrames frames(4);
  for (int64_t step = 1; step <= 11; ++step) frames.add(step, {{1.0, 2.0}});
  EXPECT_LE(frames.frames().size(), 4u);
  EXPECT_THAT(frames.total(), ElementsAre(ElementsAre(11, 22)));
  int64_t next = 0;
  for (const LoadFrame& frame : frames.frames()) {
    EXPECT_EQ(frame.first_step, next);
    next = frame.step + 1;
  }
  EXPECT_EQ(next, 12);
}

TEST(LoadFrames, StartsAnewWhenTheExpertsChange) {
  LoadFrames frames;
  frames.add(1, {{1.0, 2.0}});
  frames.add(2, {{1.0, 2.0, 3.0}});
  EXPECT_THAT(frames.total(), ElementsAre(ElementsAre(1, 2, 3)));
  EXPECT_EQ(frames.frames().front().first_step, 2);
}

}  // namespace
}  // namespace sluice::report
