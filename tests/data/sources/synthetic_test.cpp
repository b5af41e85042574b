#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/data/read_source.h"

namespace sluice {
namespace {

testing::FieldValues options(const std::string& pattern) {
  return {{"type", "synthetic"},       {"pattern", pattern},        {"documents", int64_t{40}},
          {"min_length", int64_t{20}}, {"max_length", int64_t{30}}, {"alphabet", int64_t{50}}};
}

TEST(SyntheticSource, MakesDocumentsOfTheLengthsAndTokensAskedFor) {
  for (const std::string pattern : {"random", "copy", "markov", "recall"}) {
    const auto documents = testing::tokens_of(options(pattern));
    EXPECT_EQ(documents.size(), 40);
    std::set<size_t> lengths;
    for (const auto& document : documents) {
      lengths.insert(document.size());
      for (const int32_t token : document) ASSERT_TRUE(token >= 0 && token < 50) << token;
    }
    EXPECT_GE(*lengths.begin(), 20);
    EXPECT_LE(*lengths.rbegin(), 30);
    EXPECT_GT(lengths.size(), 5);
  }
}

TEST(SyntheticSource, IsTheSameEveryTimeAndAnotherForAnotherSeed) {
  auto other = options("markov");
  other["pattern_seed"] = int64_t{1};
  EXPECT_EQ(testing::tokens_of(options("markov")), testing::tokens_of(options("markov")));
  EXPECT_NE(testing::tokens_of(options("markov")), testing::tokens_of(other));
}

TEST(SyntheticSource, RepeatsTheFirstHalfOfACopyDocument) {
  for (const auto& document : testing::tokens_of(options("copy"))) {
    const size_t half = (document.size() + 1) / 2;
    for (size_t i = half; i < document.size(); ++i) ASSERT_EQ(document[i], document[i - half]);
  }
}

TEST(SyntheticSource, FollowsAMarkovTokenByOneOfFour) {
  std::map<int32_t, std::set<int32_t>> successors;
  for (const auto& document : testing::tokens_of(options("markov"))) {
    for (size_t i = 1; i < document.size(); ++i) successors[document[i - 1]].insert(document[i]);
  }
  for (const auto& [token, next] : successors) EXPECT_LE(next.size(), 4) << "after " << token;
}

TEST(SyntheticSource, GivesAKeyTheSameValueThroughoutARecallDocument) {
  std::set<std::map<int32_t, int32_t>> maps;
  for (const auto& document : testing::tokens_of(options("recall"))) {
    std::map<int32_t, int32_t> value_of;
    for (size_t i = 1; i < document.size(); i += 2) {
      ASSERT_LT(document[i - 1], 25);
      ASSERT_GE(document[i], 25);
      EXPECT_EQ(value_of.try_emplace(document[i - 1], document[i]).first->second, document[i]);
    }
    maps.insert(value_of);
  }
  EXPECT_GT(maps.size(), 30) << "every document has values of its own";
}

TEST(SyntheticSource, MayHaveTokensOfItsOwn) {
  auto moved = options("markov");
  moved["first_token"] = int64_t{100};
  auto expected = testing::tokens_of(options("markov"));
  for (auto& document : expected) {
    for (int32_t& token : document) token += 100;
  }
  EXPECT_EQ(testing::tokens_of(moved), expected);
}

TEST(SyntheticSource, MayHaveNoDocuments) {
  auto none = options("random");
  none["documents"] = int64_t{0};
  EXPECT_THAT(testing::tokens_of(none), ::testing::IsEmpty());
}

}  // namespace
}  // namespace sluice
