#include "train/metrics/metric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::Pointee;

TEST(MetricAccumulator, WeighsAMeanByTokens) {
  MetricAccumulator step;
  step.add(metrics::train_loss, 2.0, 30);
  step.add(metrics::train_loss, 4.0, 10);
  Record record;
  step.reduce_into(record);
  EXPECT_THAT(record.find("train/loss"), Pointee(DoubleEq(2.5)));
}

TEST(MetricAccumulator, ReducesAsEachMetricDeclares) {
  MetricAccumulator step;
  for (const double value : {-3.0, -1.0, -2.0}) {
    step.add(metrics::train_balance_loss, value, 17);
    step.add(metrics::memory_peak_bytes, value, 17);
    step.add(metrics::train_lr, value, 17);
  }
  Record record;
  step.reduce_into(record);
  EXPECT_EQ(*record.find("train/balance_loss"), -6.0);
  EXPECT_EQ(*record.find("memory/peak_bytes"), -1.0);
  EXPECT_EQ(*record.find("train/lr"), -2.0);
}

TEST(MetricAccumulator, KeepsPartsApartAndOrder) {
  MetricAccumulator step;
  step.add(metrics::load_max_violation, 0.5);
  step.add(metrics::load_max_violation, 1.0, 1.0, "0");
  step.add(metrics::load_max_violation, 1.5);
  Record record;
  step.reduce_into(record);
  ASSERT_EQ(record.values.size(), 2u);
  EXPECT_EQ(record.values[0].name, "load/max_violation");
  EXPECT_EQ(record.values[0].value, 1.0);
  EXPECT_EQ(record.values[1].name, "load/max_violation/0");
}

TEST(MetricAccumulator, ForgetsWhatItReduced) {
  MetricAccumulator step;
  step.add(metrics::train_loss, 2.0);
  Record first, second;
  step.reduce_into(first);
  step.reduce_into(second);
  EXPECT_EQ(second.find("train/loss"), nullptr);
}

TEST(MetricAccumulator, LeavesOutAMeanOfNothing) {
  MetricAccumulator step;
  step.add(metrics::train_loss, 0.0, 0.0);
  Record record;
  step.reduce_into(record);
  EXPECT_TRUE(record.values.empty());
}

TEST(Metrics, CarryTheStableNames) {
  std::vector<std::string> names;
  for (const Metric& metric : all_metrics()) names.emplace_back(metric.name);
  for (const char* name : {"train/loss", "train/balance_loss", "train/z_loss", "train/grad_norm",
                           "train/lr", "load/max_violation", "load/dead_experts",
                           "load/dropped_fraction", "eval/loss", "eval/bits_per_byte",
                           "speed/tokens_per_second", "speed/peak_fraction", "memory/peak_bytes"}) {
    EXPECT_THAT(names, ::testing::Contains(name));
  }
}

TEST(Histogram, OfCountsHasOneBucketPerEntry) {
  const std::vector<int64_t> counts{5, 0, 7};
  const Histogram histogram = Histogram::of_counts("load/tokens/0", counts);
  EXPECT_THAT(histogram.limits, ElementsAre(1, 2, 3));
  EXPECT_THAT(histogram.counts, ElementsAre(5, 0, 7));
}

}  // namespace
}  // namespace sluice
