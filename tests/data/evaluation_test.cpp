#include "data/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/toy_data.h"

namespace sluice {
namespace {

using testing::corpus_of;
using testing::counting_corpus;
using testing::dataset_of;
using ::testing::ElementsAre;

std::vector<EvaluationBatch> run(const Dataset& data, const EvaluationOptions& options) {
  EvaluationPass pass(data, options);
  std::vector<EvaluationBatch> batches;
  while (auto batch = pass.next()) {
    batch->batch.check();
    batches.push_back(*std::move(batch));
  }
  EXPECT_FALSE(pass.next()) << "a finished pass stays finished";
  return batches;
}

Dataset held_out(std::vector<Corpus> corpora) { return dataset_of({}, std::move(corpora)); }

TEST(EvaluationPass, ReadsDocumentsOnceInOrderAndKeepsTheShortLastSequence) {
  const auto batches =
      run(held_out({corpus_of({{1, 2, 3}, {4, 5, 6, 7}})}), {.sequence_length = 4});
  ASSERT_EQ(batches.size(), 2);
  EXPECT_THAT(batches[0].batch.tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(batches[0].batch.targets, ElementsAre(2, 3, kIgnoredTarget, 5));
  EXPECT_THAT(batches[1].batch.tokens, ElementsAre(5, 6, 7));
  EXPECT_THAT(batches[1].batch.targets, ElementsAre(6, 7, kIgnoredTarget));
  EXPECT_THAT(batches[1].batch.positions, ElementsAre(0, 1, 2));
}

TEST(EvaluationPass, PutsOneDomainInABatchAndJoinsItsSources) {
  const auto batches =
      run(held_out({corpus_of({{1, 2}}, 1), corpus_of({{3, 4, 5}}, 0), corpus_of({{6, 7}}, 1)}),
          {.sequence_length = 3, .sequences_per_batch = 4});
  ASSERT_EQ(batches.size(), 2);
  EXPECT_EQ(batches[0].domain, 0);
  EXPECT_THAT(batches[0].batch.tokens, ElementsAre(3, 4, 5));
  EXPECT_EQ(batches[1].domain, 1);
  EXPECT_THAT(batches[1].batch.tokens, ElementsAre(1, 2, 6, 7));
  EXPECT_THAT(batches[1].batch.sequence_offsets, ElementsAre(0, 3, 4));
  EXPECT_THAT(batches[1].batch.document_domain, ElementsAre(1, 1, 1));
  EXPECT_THAT(batches[1].batch.global_sample, ElementsAre(1, 2));
}

TEST(EvaluationPass, TakesTheFirstTokensOfEachDomainUpToTheLimit) {
  const auto batches = run(held_out({corpus_of({{1, 2, 3, 4}, {5, 6}}, 0), corpus_of({{7}}, 1)}),
                           {.sequence_length = 2, .max_tokens = 3});
  ASSERT_EQ(batches.size(), 3);
  EXPECT_THAT(batches[1].batch.tokens, ElementsAre(3));
  EXPECT_THAT(batches[1].batch.targets, ElementsAre(4));
  EXPECT_THAT(batches[2].batch.tokens, ElementsAre(7));
}

TEST(EvaluationPass, CountsTheBytesOfItsTargets) {
  Dataset data = held_out({corpus_of({{1, 2, 3}, {4, 5}})});
  data.token_bytes = {0, 1, 10, 100, 1000, 10000};
  const auto batches = run(data, {.sequence_length = 8});
  ASSERT_EQ(batches.size(), 1);
  EXPECT_EQ(batches[0].target_bytes, 10 + 100 + 10000);
}

TEST(EvaluationPass, SkipsDomainsWithoutHeldOutText) {
  const auto batches = run(held_out({corpus_of({{1, 2}}, 2)}), {.sequence_length = 8});
  ASSERT_EQ(batches.size(), 1);
  EXPECT_EQ(batches[0].domain, 2);
  EXPECT_TRUE(run(held_out({}), {.sequence_length = 8}).empty());
}

TEST(EvaluationPass, DealsItsSequencesOutToTheRanks) {
  const Dataset data = held_out({counting_corpus(9, {5, 3}, 0), counting_corpus(4, {6}, 1)});
  const EvaluationOptions alone = {.sequence_length = 4, .sequences_per_batch = 3};
  std::vector<Batch> expected;
  for (const EvaluationBatch& whole : run(data, alone)) {
    for (int64_t i = 0; i < whole.batch.num_sequences(); ++i) {
      expected.push_back(whole.batch.slice_sequences(i, i + 1));
    }
  }
  std::vector<Batch> found(expected.size());
  for (int64_t rank = 0; rank < 4; ++rank) {
    EvaluationOptions mine = alone;
    mine.rank = rank;
    mine.num_ranks = 4;
    for (const EvaluationBatch& part : run(data, mine)) {
      for (int64_t i = 0; i < part.batch.num_sequences(); ++i) {
        found[part.batch.global_sample[i]] = part.batch.slice_sequences(i, i + 1);
      }
    }
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace sluice
