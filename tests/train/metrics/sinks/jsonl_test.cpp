#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/scratch_folder.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

using testing::FullDisk;
using testing::ScratchFolder;

class JsonlSink : public ::testing::Test {
 protected:
  std::unique_ptr<Sink> sink(FileSystem& files = real_file_system()) const {
    return sinks().at("jsonl").make({.folder = folder_.path(), .files = &files});
  }
  std::string contents() const { return read_file(path(), raise_as<CheckpointError>); }
  std::string path() const { return folder_ / "metrics.jsonl"; }
  ScratchFolder folder_;
};

TEST_F(JsonlSink, WritesOneObjectPerRecord) {
  Record record{.step = 120, .tokens = 983040, .seconds = 12.5};
  record.add(metrics::train_loss, 0.1);
  record.add(metrics::train_lr, 3e-4);
  record.add("odd \"name\"", 1e300);
  const std::vector<int64_t> counts{5, 0, 7};
  record.histograms.push_back(Histogram::of_counts("load/tokens/0", counts));
  sink()->record(record);
  EXPECT_EQ(contents(),
            "{\"step\":120,\"tokens\":983040,\"seconds\":12.5,\"train/loss\":0.1,"
            "\"train/lr\":0.0003,\"odd \\\"name\\\"\":1e+300,\"load/tokens/0\":[5,0,7]}\n");
}

TEST_F(JsonlSink, WritesNullForNumbersThatAreNotFinite) {
  Record record{.step = 1};
  record.add("a", std::nan(""));
  record.add("b", -INFINITY);
  sink()->record(record);
  EXPECT_EQ(contents(), "{\"step\":1,\"tokens\":0,\"seconds\":0,\"a\":null,\"b\":null}\n");
}

TEST_F(JsonlSink, WritesTheShortestNumberThatReadsBackTheSame) {
  for (const double value : {1.0 / 3.0, 5e-324, 123456789012345680.0, double(0.1f), -0.0}) {
    std::filesystem::remove(path());
    Record record{.step = 1};
    record.add("x", value);
    sink()->record(record);
    const std::string text = contents();
    const double back = std::strtod(text.c_str() + text.find("\"x\":") + 4, nullptr);
    EXPECT_EQ(std::signbit(back), std::signbit(value));
    EXPECT_EQ(back, value) << text;
  }
}

TEST_F(JsonlSink, DropsRecordsPastTheCheckpointAndKeepsTheRestByteForByte) {
  const std::string kept = "{\"step\":10, \"x\" : 1.50}\n{\"step\":20,\"eval/loss\":2}\n";
  std::ofstream(path()) << kept << "{\"step\":30}\n";
  sink()->truncate_after(20);
  EXPECT_EQ(contents(), kept);
}

TEST_F(JsonlSink, DropsTheHalfLineOfAKilledProcess) {
  std::ofstream(path()) << "{\"step\":10}\n{\"step\":2";
  sink()->truncate_after(20);
  EXPECT_EQ(contents(), "{\"step\":10}\n");
}

TEST_F(JsonlSink, DropsALineThatIsNoRecord) {
  std::ofstream(path()) << "{\"step\":10}\nnoise\n[1]\n{\"step\":\"x\"}\n\n{\"step\":20}\n";
  sink()->truncate_after(20);
  EXPECT_EQ(contents(), "{\"step\":10}\n{\"step\":20}\n");
}

TEST_F(JsonlSink, LeavesAFileAloneThatNeedsNoCut) {
  std::ofstream(path()) << "{\"step\":10}\n";
  FullDisk disk(0);
  sink(disk)->truncate_after(10);
  EXPECT_EQ(contents(), "{\"step\":10}\n");
}

TEST_F(JsonlSink, OnAFullDiskSaysSo) {
  FullDisk disk(10);
  try {
    sink(disk)->record({.step = 1});
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.what(), path() + ": cannot write: No space left on device");
  }
}

TEST_F(JsonlSink, OnAFullDiskTruncatesNothing) {
  const std::string text = "{\"step\":10}\n{\"step\":20}\n";
  std::ofstream(path()) << text;
  FullDisk disk(3);
  EXPECT_THROW(sink(disk)->truncate_after(10), CheckpointError);
  EXPECT_EQ(contents(), text);
}

}  // namespace
}  // namespace sluice
