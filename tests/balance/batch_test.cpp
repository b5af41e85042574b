#include "balance/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::layout_of;

TEST(Batch, TakesTheRowsOfCountedTokens) {
  SequenceLayout layout = layout_of({2, 2});
  layout.counted = {1, 0, 0, 1};
  const auto tokens = counted_tokens(layout);
  EXPECT_EQ(tokens, (std::vector<int64_t>{0, 3}));
  Pool pool;
  const Tensor x = Tensor::of<float>(pool, {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(rows_of(x, tokens), (std::vector<double>{1, 2, 7, 8}));
  ArenaScope scratch(thread_arena());
  EXPECT_THAT(shifted_rows(scratch, x, std::vector<double>{10, 0}),
              ElementsAre(11, 2, 13, 4, 15, 6, 17, 8));
  EXPECT_THAT(shifted_rows(scratch, x, {}), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST(Batch, SelectsTheTopKOfItsValues) {
  Selection selection;
  select_top_k(std::vector<double>{1, 3, 3, 0, std::nan(""), -1}, 2, 3, 2, selection);
  EXPECT_EQ(selection.expert, (std::vector<int32_t>{1, 2, 0, 2}));
  EXPECT_EQ(selection.tokens, 2);
  EXPECT_EQ(selection.experts, 3);
  EXPECT_EQ(selection.top_k, 2);
  EXPECT_TRUE(selection.shifted);
}

TEST(Batch, SelectsWhatIsPositiveInAsManySlotsAsItTakes) {
  Selection selection;
  const std::vector<double> values = {.1, .5, .5, 0, 0, 0, -1, std::nan(""), .2};
  select_positive(values, 3, 3, 2, selection);
  EXPECT_EQ(selection.top_k, 3);
  EXPECT_EQ(selection.expert, (std::vector<int32_t>{1, 2, 0, kNoExpert, kNoExpert, kNoExpert, 2,
                                                    kNoExpert, kNoExpert}));
  select_positive(std::vector<double>(6, 0.0), 2, 3, 2, selection);
  EXPECT_EQ(selection.top_k, 2);
  EXPECT_EQ(selection.expert, std::vector<int32_t>(4, kNoExpert));
}

}  // namespace
}  // namespace sluice
