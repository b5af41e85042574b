#include "balance/vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/balance/random_choices.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::random_choices;

TEST(VocabularyCounts, CountsAssignmentsPerTokenId) {
  VocabularyCounts counts(10, 3);
  const std::vector<int32_t> ids = {7, 7, 2, 7};
  const std::vector<int32_t> experts = {0, 1, 0, 2, 1, 2, 0, kNoExpert};
  counts.add(ids, {experts, 2});
  EXPECT_EQ(counts.tokens(7), 3);
  EXPECT_THAT(counts.chosen(7), ElementsAre(3, 1, 1));
  EXPECT_THAT(counts.chosen(2), ElementsAre(0, 1, 1));
  EXPECT_THAT(counts.chosen(3), IsEmpty());
  EXPECT_EQ(counts.tokens(3), 0);
}

TEST(VocabularyCounts, LeavesOutTokensWithoutALoss) {
  VocabularyCounts counts(4, 2);
  const std::vector<int32_t> ids = {1, 1};
  const std::vector<int32_t> experts = {0, 1};
  const std::vector<uint8_t> counted = {1, 0};
  counts.add(ids, {experts, 1, counted});
  EXPECT_THAT(counts.chosen(1), ElementsAre(1, 0));
}

TEST(VocabularyCounts, ListsTheLargestSharesOfFrequentTokens) {
  VocabularyCounts counts(10, 2);
  // Token 1: 2 of 2 to expert 0; token 2: 3 of 3; token 3: 1 of 2; token 4: once.
  const std::vector<int32_t> ids = {1, 1, 2, 2, 2, 3, 3, 4};
  const std::vector<int32_t> experts = {0, 0, 0, 0, 0, 0, 1, 0};
  counts.add(ids, {experts, 1});
  using Entry = VocabularyCounts::Entry;
  EXPECT_THAT(counts.top(0, 3, 2),
              ElementsAre(Entry{2, 3, 1.0}, Entry{1, 2, 1.0}, Entry{3, 2, 0.5}));
  EXPECT_THAT(counts.top(1, 3, 1), ElementsAre(Entry{3, 2, 0.5}));
  EXPECT_THAT(counts.top(0, 1, 1), ElementsAre(Entry{2, 3, 1.0}));
}

TEST(VocabularyCounts, AgreesWithAPlainCountOnRandomRoutes) {
  constexpr int64_t kTokens = 300;
  const auto experts = random_choices(kTokens, 5, 2, 4);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<int32_t>(i * i % 13));
  VocabularyCounts counts(13, 5);
  counts.add(ids, {experts, 2});
  std::map<std::pair<int32_t, int32_t>, int64_t> plain;
  for (int64_t i = 0; i < 2 * kTokens; ++i) {
    ++plain[{ids[static_cast<size_t>(i / 2)], experts[static_cast<size_t>(i)]}];
  }
  for (int32_t id = 0; id < 13; ++id) {
    if (counts.tokens(id) == 0) continue;
    for (int32_t expert = 0; expert < 5; ++expert) {
      const int64_t expected = plain[{id, expert}];
      EXPECT_EQ(counts.chosen(id)[static_cast<size_t>(expert)], expected);
    }
  }
}

}  // namespace
}  // namespace sluice
