#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/data/read_source.h"

namespace sluice {
namespace {

testing::FieldValues options(const std::string& pattern) {
  return {{"type", "synthetic"},       {"pattern", pattern},        {"documents", int64_t{40}},
          {"min_length", int64_t{20}}, {"max_length", int64_t{30}}, {"alphabet", int64_t{48}}};
}

TEST(SyntheticSource, MakesDocumentsOfTheLengthsAndTokensAskedFor) {
  for (const std::string pattern :
       {"random", "copy", "markov", "recall", "facts", "sums", "powers"}) {
    const auto documents = testing::tokens_of(options(pattern));
    EXPECT_EQ(documents.size(), 40);
    std::set<size_t> lengths;
    for (const auto& document : documents) {
      lengths.insert(document.size());
      for (const int32_t token : document) ASSERT_TRUE(token >= 0 && token < 48) << token;
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
      ASSERT_LT(document[i - 1], 24);
      ASSERT_GE(document[i], 24);
      EXPECT_EQ(value_of.try_emplace(document[i - 1], document[i]).first->second, document[i]);
    }
    maps.insert(value_of);
  }
  EXPECT_GT(maps.size(), 30) << "every document has values of its own";
}

TEST(SyntheticSource, GivesAFactTheSameObjectInAllDocuments) {
  std::map<std::pair<int32_t, int32_t>, int32_t> object_of;
  std::set<int32_t> objects;
  size_t facts = 0;
  for (const auto& document : testing::tokens_of(options("facts"))) {
    for (size_t i = 2; i < document.size(); i += 3, ++facts) {
      ASSERT_EQ(document[i - 2] / 16, 0);
      ASSERT_EQ(document[i - 1] / 16, 1);
      ASSERT_EQ(document[i] / 16, 2);
      const std::pair asked(document[i - 2], document[i - 1]);
      EXPECT_EQ(object_of.try_emplace(asked, document[i]).first->second, document[i]);
      objects.insert(document[i]);
    }
  }
  EXPECT_LT(object_of.size(), facts) << "some are asked twice";
  EXPECT_EQ(objects.size(), 16);
}

TEST(SyntheticSource, EndsASumsDocumentWithTheSumOfItsNumbers) {
  std::set<int32_t> results;
  for (const auto& document : testing::tokens_of(options("sums"))) {
    const size_t sign = document.size() - 2;
    int32_t sum = 0;
    for (size_t i = 0; i < sign; ++i) {
      ASSERT_LT(document[i], 47);
      sum += document[i];
    }
    EXPECT_EQ(document[sign], 47);
    EXPECT_EQ(document.back(), sum % 47);
    results.insert(document.back());
  }
  EXPECT_GT(results.size(), 20);
}

TEST(SyntheticSource, AsksForPowersOfAStepAndAnswersThem) {
  std::set<int32_t> counts;
  for (const auto& document : testing::tokens_of(options("powers"))) {
    for (size_t i = 2; i < document.size(); i += 3) {
      const int32_t count = document[i - 2] - 44;
      ASSERT_TRUE(count >= 0 && count < 4) << count;
      counts.insert(count);
      int32_t number = document[i - 1];
      ASSERT_LT(number, 44);
      for (int32_t step = 0; step < count; ++step) number = (3 * number + 1) % 44;
      EXPECT_EQ(document[i], number);
    }
  }
  EXPECT_EQ(counts.size(), 4);
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
