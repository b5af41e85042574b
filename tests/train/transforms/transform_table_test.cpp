#include "train/transforms/transform_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TransformReceipt receipt_of(const std::string& from, const std::string& method,
                            const std::string& settings, int64_t seed, double loss) {
  TransformReceipt receipt{.from = from, .method = method, .settings = settings, .seed = seed};
  receipt.before = {1000, 500, 4000};
  receipt.after = {600, 500, 2400};
  receipt.parity = Parity{.loss_before = from == "a" ? 2.0 : 3.0, .loss_after = loss};
  return receipt;
}

TEST(TransformTable, TakesMeansOverModelsAndSeeds) {
  TransformTable table;
  table.add(receipt_of("a", "merge", "num_experts: 4\n", 1, 4.0));
  table.add(receipt_of("a", "merge", "num_experts: 4\n", 2, 4.0));
  table.add(receipt_of("b", "merge", "num_experts: 4\n", 1, 7.0));
  // Losses 4, 4 and 7; rises 2, 2 and 4; models 2 and 3.
  EXPECT_THAT(table.markdown(),
              AllOf(HasSubstr("| none | 2 | 1,000 | 500 | 2.5000 ± 0.7071 |"),
                    HasSubstr("| merge | 3 | 600 | 500 | 5.0000 ± 1.7321 | 2.6667 ± 1.1547 |")));
}

TEST(TransformTable, HasNoDeviationOfOneRun) {
  TransformTable table;
  table.add(receipt_of("a", "prune reap", "num_experts: 4\n", 1, 2.25));
  EXPECT_THAT(table.markdown(), AllOf(HasSubstr("| none | 1 | 1,000 | 500 | 2.0000 | | |"),
                                      HasSubstr("| prune reap | 1 | 600 | 500 | 2.2500 | 0.2500 |")));
  EXPECT_EQ(std::ranges::count(table.csv(), '\n'), 2);
}

TEST(TransformTable, KeepsSettingsOfOneMethodApart) {
  TransformTable table;
  table.add(receipt_of("a", "merge", "num_experts: 4\nalign: true\n", 1, 4.0));
  table.add(receipt_of("a", "prune reap", "num_experts: 4\n", 1, 4.5));
  table.add(receipt_of("a", "merge", "num_experts: 6\nalign: true\n", 1, 3.0));
  EXPECT_THAT(table.markdown(),
              AllOf(HasSubstr("| merge (num_experts: 4, align: true) | 1 |"),
                    HasSubstr("| merge (num_experts: 6, align: true) | 1 |"),
                    HasSubstr("| prune reap | 1 |"), Not(HasSubstr("±"))));
  EXPECT_THAT(table.csv(), HasSubstr("merge,\"num_experts: 6, align: true\",\"a\",1,600,"));
}

TEST(KeptText, ShowsGroups) {
  EXPECT_EQ(kept_text({.path = "layers.1", .kept = {0, 2}, .scores = {}, .members = {}}), "0 2");
  EXPECT_EQ(
      kept_text({.path = "layers.1", .kept = {0, 2}, .scores = {}, .members = {{0}, {2, 1, 3}}}),
      "0 2+1+3");
}

}  // namespace
}  // namespace sluice
