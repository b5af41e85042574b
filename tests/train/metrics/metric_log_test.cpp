#include "train/metrics/metric_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;

TEST(MetricLog, FeedsEverySink) {
  const ScratchFolder folder;
  std::ostringstream out;
  {
    MetricLog log({"console", "jsonl", "tensorboard", "hdf5"},
                  {.folder = folder.path(), .console = {&out}, .wall_clock = [] { return 1.0; }});
    log.truncate_after(-1);
    Record record{.step = 1};
    record.add(metrics::train_loss, 2.0);
    log.record(record);
    log.event("saved");
    log.flush();
  }
  EXPECT_EQ(out.str(), "step 1 | loss 2.0000\nsaved\n");
  EXPECT_TRUE(std::filesystem::exists(folder / "metrics.jsonl"));
  EXPECT_TRUE(std::filesystem::exists(folder / "metrics.h5"));
  EXPECT_FALSE(std::filesystem::is_empty(folder.path() / "tensorboard"));
}

// What every sink owes: forgetting the steps past a checkpoint and recording them again leaves no
// trace.
class EverySink : public ::testing::TestWithParam<const SinkType*> {
 protected:
  // The files after steps 1 to `steps`, resumed from `resume_at` when it is not 0.
  std::string contents_after(int64_t steps, int64_t resume_at) {
    const ScratchFolder folder;
    std::ostringstream out;
    const SinkContext context{
        .folder = folder.path(), .console = {&out}, .wall_clock = [] { return 1.0; }};
    {
      const auto sink = GetParam()->make(context);
      sink->truncate_after(-1);
      record_steps(*sink, 1, steps);
      sink->flush();
    }
    if (resume_at != 0) {
      const auto sink = GetParam()->make(context);
      sink->truncate_after(resume_at);
      record_steps(*sink, std::max<int64_t>(resume_at, 0) + 1, steps);
      sink->flush();
    }
    std::string contents;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
      if (entry.is_regular_file()) contents += read_file(entry.path(), raise_as<CheckpointError>);
    }
    return contents;
  }

  static void record_steps(Sink& sink, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) {
      Record record{.step = step, .tokens = 100 * step, .seconds = 0.5 * double(step)};
      record.add(metrics::train_loss, 1.0 / double(step));
      if (step % 3 == 0) record.add(metrics::eval_loss, 2.0 / double(step));
      record.add("load/max_violation/0", double(step));
      record.add(metrics::load_max_violation, double(step));
      const std::vector<int64_t> counts{step, 2, 3};
      record.histograms.push_back(Histogram::of_counts("load/tokens/0", counts));
      sink.record(record);
      sink.routing(LoadRecord{.step = step, .tokens = 100 * step, .load = {{step, 2, 3}}});
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Registry, EverySink, ::testing::ValuesIn([] {
                           const auto entries = sinks().entries();
                           return std::vector(entries.begin(), entries.end());
                         }()),
                         [](const auto& sink) { return std::string(sink.param->name); });

TEST_P(EverySink, RecordsEachStepOnceAcrossAResume) {
  const std::string whole = contents_after(9, 0);
  for (const int64_t resume_at : {1, 4, 8, 9}) {
    EXPECT_TRUE(contents_after(9, resume_at) == whole) << "resumed at " << resume_at;
  }
}

TEST_P(EverySink, AFreshRunForgetsAnEarlierOne) {
  EXPECT_TRUE(contents_after(9, -1) == contents_after(9, 0));
}

TEST(LogConfig, NamesAnUnknownSink) {
  LogConfig config;
  EXPECT_EQ(config.check(), "");
  config.sinks = {"console", "json"};
  EXPECT_THAT(config.check(), HasSubstr("unknown sink \"json\"; did you mean \"jsonl\"?"));
  EXPECT_THROW(MetricLog({"json"}, {}), ConfigError);
}

}  // namespace
}  // namespace sluice
