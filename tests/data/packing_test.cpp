#include "data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/data/toy_data.h"

namespace sluice {
namespace {

using testing::corpus_of;
using testing::counting_corpus;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr int32_t kNone = kIgnoredTarget;

PackingOptions in_order(int64_t sequence_length) {
  return {.sequence_length = sequence_length, .seed = 3, .shuffle = false};
}

PackingOptions shuffled(int64_t sequence_length, uint64_t seed = 3) {
  return {.sequence_length = sequence_length, .seed = seed, .shuffle = true};
}

Batch sequences(const Corpus& corpus, const PackingOptions& options, int64_t begin, int64_t end) {
  PackedCorpus packed(corpus, options, 0);
  Batch batch;
  for (int64_t i = begin; i < end; ++i) packed.append_sequence(i, static_cast<uint64_t>(i), batch);
  batch.check();
  return batch;
}

TEST(Packing, CutsALongDocumentAndGoesOnInTheNextSequence) {
  const Batch batch = sequences(corpus_of({{1, 2, 3, 4, 5}, {6, 7, 8}}), in_order(4), 0, 2);
  EXPECT_THAT(batch.tokens, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_THAT(batch.targets, ElementsAre(2, 3, 4, 5, kNone, 7, 8, kNone));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 3, 0, 0, 1, 2));
  EXPECT_THAT(batch.sequence_offsets, ElementsAre(0, 4, 8));
  EXPECT_THAT(batch.document_offsets, ElementsAre(0, 4, 5, 8));
  EXPECT_THAT(batch.global_sample, ElementsAre(0, 1));
}

TEST(Packing, FitsADocumentOfExactlyOneSequence) {
  const Batch batch = sequences(corpus_of({{1, 2, 3, 4}, {5, 6, 7, 8}}), in_order(4), 0, 2);
  EXPECT_THAT(batch.targets, ElementsAre(2, 3, 4, kNone, 6, 7, 8, kNone));
  EXPECT_EQ(batch.num_documents(), 2);
}

TEST(Packing, LearnsTheLastTokenOfADocumentOneLongerThanASequence) {
  const Batch batch = sequences(corpus_of({{1, 2, 3, 4, 5}}), in_order(4), 0, 1);
  EXPECT_THAT(batch.targets, ElementsAre(2, 3, 4, 5));
}

TEST(Packing, HasNoTargetInDocumentsOfOneToken) {
  const Batch batch = sequences(corpus_of({{1}, {2}, {3}}), in_order(3), 0, 1);
  EXPECT_THAT(batch.targets, Each(kNone));
  EXPECT_THAT(batch.positions, Each(0));
  EXPECT_EQ(batch.num_documents(), 3);
}

TEST(Packing, LearnsAcrossDocumentsWhenAsked) {
  PackingOptions options = in_order(3);
  options.cross_document_loss = true;
  const Batch batch = sequences(corpus_of({{1, 2}, {3}, {4, 5}}), options, 0, 2);
  EXPECT_THAT(batch.tokens, ElementsAre(1, 2, 3, 4, 5, 1));
  EXPECT_THAT(batch.targets, ElementsAre(2, 3, 4, 5, 1, 2));
  EXPECT_THAT(batch.document_offsets, ElementsAre(0, 2, 3, 5, 6));
}

TEST(Packing, NeverLearnsAPrompt) {
  Corpus corpus(100);
  corpus.add_document(std::vector<int32_t>{1, 2, 3, 4}, 4, 2);
  corpus.add_document(std::vector<int32_t>{5, 6}, 2, 1);
  PackingOptions options = in_order(6);
  EXPECT_THAT(sequences(corpus, options, 0, 1).targets, ElementsAre(kNone, 3, 4, kNone, 6, kNone));
  options.cross_document_loss = true;
  EXPECT_THAT(sequences(corpus, options, 0, 1).targets, ElementsAre(kNone, 3, 4, kNone, 6, kNone));
}

TEST(Packing, RepeatsACorpusShorterThanASequenceAsSeparateDocuments) {
  const Batch batch = sequences(corpus_of({{1, 2}}), in_order(5), 0, 2);
  EXPECT_THAT(batch.tokens, ElementsAre(1, 2, 1, 2, 1, 2, 1, 2, 1, 2));
  EXPECT_THAT(batch.document_offsets, ElementsAre(0, 2, 4, 5, 6, 8, 10));
  EXPECT_THAT(sequences(corpus_of({{7}}), shuffled(3), 0, 2).tokens, Each(7));
}

TEST(Packing, GivesEveryTokenOncePerEpochWhateverTheLengths) {
  for (const int64_t length : {1, 3, 7, 16, 50, 51, 52, 120}) {
    const Corpus corpus = counting_corpus(12, {1, 9, 4, 3});  // 51 tokens
    const int64_t epochs = length;  // so many epochs are a whole number of sequences
    const Batch batch = sequences(corpus, shuffled(length), 0, 51);
    std::map<int32_t, int64_t> counts;
    for (const int32_t token : batch.tokens) ++counts[token];
    EXPECT_EQ(counts.size(), 51) << length;
    for (const auto& [token, count] : counts) ASSERT_EQ(count, epochs) << token << " " << length;
  }
}

TEST(Packing, KeepsTokensOfADocumentInOrderWhenShuffled) {
  const Corpus corpus = counting_corpus(30, {1, 9, 4, 3, 25});
  const Batch batch = sequences(corpus, shuffled(10), 0, 60);
  for (int64_t i = 0; i < batch.num_tokens(); ++i) {
    if (batch.targets[i] != kNone) {
      ASSERT_EQ(batch.targets[i], batch.tokens[i] + 1);
    }
  }
}

TEST(Packing, LearnsEveryTokenButTheFirstOfEachDocumentOncePerEpoch) {
  const Corpus corpus = counting_corpus(10, {1, 9, 4, 3, 8});  // 50 tokens
  const Batch batch = sequences(corpus, shuffled(10), 0, 5);
  EXPECT_EQ(batch.valid_targets(), 50 - 10);
}

TEST(Packing, ShufflesDocumentsAnewInEveryEpochAndForEverySeed) {
  const Corpus corpus = counting_corpus(50, {4});
  const auto first = sequences(corpus, shuffled(10), 0, 20).tokens;
  EXPECT_NE(sequences(corpus, shuffled(10), 20, 40).tokens, first);
  EXPECT_NE(sequences(corpus, shuffled(10, 4), 0, 20).tokens, first);
  EXPECT_NE(sequences(corpus, in_order(10), 0, 20).tokens, first);
  EXPECT_EQ(sequences(corpus, shuffled(10), 0, 20).tokens, first);
}

TEST(Packing, ScattersThePiecesOfALongDocument) {
  const Corpus corpus = counting_corpus(1, {1000});
  const Batch batch = sequences(corpus, shuffled(10), 0, 100);
  int64_t neighbours = 0;
  for (int64_t i = 1; i < 100; ++i) {
    neighbours += batch.tokens[10 * i] == batch.tokens[10 * (i - 1)] + 10;
  }
  EXPECT_LT(neighbours, 10);
}

TEST(Packing, GivesTheSameSequenceInAnyOrderOfCalls) {
  const Corpus corpus = counting_corpus(20, {1, 9, 4, 3});
  for (const int64_t length : {7, 200}) {
    const Batch forward = sequences(corpus, shuffled(length), 0, 40);
    PackedCorpus packed(corpus, shuffled(length), 0);
    for (int64_t i = 39; i >= 0; --i) {
      Batch one;
      packed.append_sequence(i, static_cast<uint64_t>(i), one);
      ASSERT_EQ(one, forward.slice_sequences(i, i + 1)) << i;
    }
  }
}

}  // namespace
}  // namespace sluice
