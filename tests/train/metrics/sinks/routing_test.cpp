#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

using testing::ScratchFolder;

class RoutingSink : public ::testing::Test {
 protected:
  std::unique_ptr<Sink> sink() const {
    return sinks().at("routing").make({.folder = folder_.path()});
  }
  std::string contents() const { return read_file(path(), raise_as<CheckpointError>); }
  std::string path() const { return folder_ / "routing.jsonl"; }
  ScratchFolder folder_;
};

TEST_F(RoutingSink, WritesLoads) {
  sink()->routing(LoadRecord{.step = 10, .tokens = 640, .load = {{3, 0}, {1, 2}}});
  EXPECT_EQ(contents(), "{\"kind\":\"load\",\"step\":10,\"tokens\":640,\"load\":[[3,0],[1,2]]}\n");
}

TEST_F(RoutingSink, WritesGradientsAndUpdates) {
  sink()->routing(
      ExpertsRecord{.step = 10, .gradient_share = {{0.25, 0.75}}, .update_ratio = {{1e-3, NAN}}});
  EXPECT_EQ(contents(),
            "{\"kind\":\"experts\",\"step\":10,\"gradient_share\":[[0.25,0.75]],"
            "\"update_ratio\":[[0.001,null]]}\n");
}

TEST_F(RoutingSink, WritesProbes) {
  ProbeRecord probe{.step = 20, .tokens = 3, .top_k = 1, .chosen = {{2, 1}}};
  probe.domains = {{"a \"b\"", 3, {{2, 1}}}};
  sink()->routing(probe);
  probe.coactivation = CountsPerLayer{{2, 0, 0, 1}, {}};
  sink()->routing(probe);
  const std::string domains = "\"domains\":{\"a \\\"b\\\"\":{\"tokens\":3,\"chosen\":[[2,1]]}}}\n";
  const std::string head =
      "{\"kind\":\"probe\",\"step\":20,\"tokens\":3,\"top_k\":1,\"chosen\":[[2,1]],";
  EXPECT_EQ(contents(), head + domains + head + "\"coactivation\":[[[2,0],[0,1]],[]]," + domains);
}

TEST_F(RoutingSink, WritesAlarms) {
  AlarmRecord alarm{.step = 7, .name = "dropped", .value = 0.5, .threshold = 0.1, .advice = "act"};
  sink()->routing(alarm);
  alarm.layer = 2;
  sink()->routing(alarm);
  EXPECT_EQ(contents(),
            "{\"kind\":\"alarm\",\"step\":7,\"name\":\"dropped\",\"layer\":null,\"value\":0.5,"
            "\"threshold\":0.1,\"advice\":\"act\"}\n"
            "{\"kind\":\"alarm\",\"step\":7,\"name\":\"dropped\",\"layer\":2,\"value\":0.5,"
            "\"threshold\":0.1,\"advice\":\"act\"}\n");
}

TEST_F(RoutingSink, DropsRecordsPastTheCheckpoint) {
  std::ofstream(path()) << "{\"kind\":\"load\",\"step\":10}\n{\"kind\":\"load\",\"step\":20}\n{";
  sink()->truncate_after(10);
  EXPECT_EQ(contents(), "{\"kind\":\"load\",\"step\":10}\n");
}

TEST_F(RoutingSink, OfADenseModelWritesNoFile) {
  const auto dense = sink();
  dense->truncate_after(-1);
  dense->record(Record{.step = 1});
  dense->flush();
  EXPECT_FALSE(std::filesystem::exists(path()));
}

}  // namespace
}  // namespace sluice
