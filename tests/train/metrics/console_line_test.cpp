#include "train/metrics/console_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

Record full_record() {
  Record record{.step = 120, .tokens = 983040, .seconds = 80};
  record.add(metrics::train_loss, 4.81234);
  record.add(metrics::train_loss_deviation, 0.2);
  record.add(metrics::train_balance_loss, 1.013);
  record.add(metrics::train_z_loss, 0.004);
  record.add(metrics::train_grad_norm, 0.91);
  record.add(metrics::train_lr, 3e-4);
  record.add(metrics::load_max_violation, 0.18);
  record.add(metrics::load_dead_experts, 0);
  record.add(metrics::speed_tokens_per_second, 12345.2);
  record.add(metrics::speed_peak_fraction, 0.61);
  record.add(metrics::speed_router_fraction, 0.04);
  record.add(metrics::memory_peak_bytes, 3.1e9);
  return record;
}

TEST(TrainingLine, SaysEverythingOnce) {
  EXPECT_EQ(training_line(full_record(),
                          {.total_steps = 2000, .num_experts = 64, .eta_seconds = 27 * 60 + 3}),
            "step 120/2000 | loss 4.8123 (+0.2z) | bal 1.013 z 0.004 | gnorm 0.91 | lr 3.0e-4 | "
            "maxvio 0.18 dead 0/64 | 12,345 tok/s 61% peak | router 4% | 3.1 GB | "
            "eta 27m");
}

TEST(TrainingLine, LeavesOutWhatTheRecordLacks) {
  Record record{.step = 3};
  record.add(metrics::train_loss, 5.0);
  record.add("load/bias_range", 1.0);
  EXPECT_EQ(training_line(record, {}), "step 3 | loss 5.0000");
  EXPECT_EQ(training_line(Record{.step = 3}, {}), "");
}

TEST(TrainingLine, ShowsNumbersThatAreNotFinite) {
  Record record{.step = 3};
  record.add(metrics::train_loss, std::nan(""));
  record.add(metrics::train_grad_norm, INFINITY);
  record.add(metrics::speed_tokens_per_second, INFINITY);
  EXPECT_EQ(training_line(record, {}), "step 3 | loss nan | gnorm inf | ? tok/s");
}

TEST(EvaluationLine, ListsTheDomains) {
  Record record{.step = 100};
  record.add(metrics::eval_loss, 4.70311);
  record.add(metrics::eval_bits_per_byte, 2.4119);
  record.add("eval/loss/code", 3.911);
  record.add("eval/loss/prose", 4.88);
  EXPECT_EQ(evaluation_line(record, {.total_steps = 600}),
            "step 100/600 | eval loss 4.7031 | 2.412 bits/byte | code 3.91 prose 4.88");
  EXPECT_EQ(training_line(record, {}), "");
  EXPECT_EQ(evaluation_line(full_record(), {}), "");
}

TEST(ConsoleWords, GroupThousands) {
  EXPECT_EQ(with_thousands(0), "0");
  EXPECT_EQ(with_thousands(999), "999");
  EXPECT_EQ(with_thousands(1000), "1,000");
  EXPECT_EQ(with_thousands(-123456), "-123,456");
  EXPECT_EQ(with_thousands(1234567), "1,234,567");
}

TEST(ConsoleWords, ShortenDurations) {
  EXPECT_EQ(duration_text(0), "0s");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(60), "1m");
  EXPECT_EQ(duration_text(3 * 3600 + 5 * 60), "3h05m");
  EXPECT_EQ(duration_text(2 * 86400 + 4 * 3600), "2d04h");
}

TEST(ConsoleWords, DrawABarOfItsWidth) {
  EXPECT_EQ(progress_bar(0.0, 17), "[----------]   0%");
  EXPECT_EQ(progress_bar(0.25, 17), "[##--------]  25%");
  EXPECT_EQ(progress_bar(1.0, 17), "[##########] 100%");
  EXPECT_EQ(progress_bar(7.0, 17), "[##########] 100%");
  EXPECT_EQ(progress_bar(0.5, 0), "[-]  50%");
}

}  // namespace
}  // namespace sluice
