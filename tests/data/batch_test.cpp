#include "data/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

/// Sequence 0: documents of 2 and 1 tokens; sequence 1: one document of 3; sequence 2: one of 1.
Batch three_sequences() {
  Batch batch;
  batch.tokens = {1, 2, 3, 4, 5, 6, 7};
  batch.targets = {2, kIgnoredTarget, kIgnoredTarget, 5, 6, 9, kIgnoredTarget};
  batch.positions = {0, 1, 0, 0, 1, 2, 0};
  batch.sequence_offsets = {0, 3, 6, 7};
  batch.document_offsets = {0, 2, 3, 6, 7};
  batch.document_domain = {0, 1, 2, 3};
  batch.global_sample = {10, 11, 12};
  return batch;
}

TEST(Batch, CountsTokensSequencesDocumentsAndTargets) {
  const Batch batch = three_sequences();
  batch.check();
  EXPECT_EQ(batch.num_tokens(), 7);
  EXPECT_EQ(batch.num_sequences(), 3);
  EXPECT_EQ(batch.num_documents(), 4);
  EXPECT_EQ(batch.valid_targets(), 4);
  EXPECT_THAT(batch.document_of_token(), ElementsAre(0, 0, 1, 2, 2, 2, 3));
}

TEST(Batch, SlicesSequencesIntoABatchOfItsOwn) {
  const Batch slice = three_sequences().slice_sequences(1, 3);
  slice.check();
  EXPECT_THAT(slice.tokens, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(slice.targets, ElementsAre(5, 6, 9, kIgnoredTarget));
  EXPECT_THAT(slice.positions, ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(slice.sequence_offsets, ElementsAre(0, 3, 4));
  EXPECT_THAT(slice.document_offsets, ElementsAre(0, 3, 4));
  EXPECT_THAT(slice.document_domain, ElementsAre(2, 3));
  EXPECT_THAT(slice.global_sample, ElementsAre(11, 12));
}

TEST(Batch, SlicesToNothingAndToItself) {
  const Batch batch = three_sequences();
  EXPECT_EQ(batch.slice_sequences(0, 3), batch);
  for (int64_t at = 0; at <= 3; ++at) {
    EXPECT_EQ(batch.slice_sequences(at, at), Batch{}) << at;
  }
  EXPECT_EQ(Batch{}.slice_sequences(0, 0), Batch{});
  EXPECT_EQ(Batch{}.valid_targets(), 0);
}

TEST(Batch, AppendsWhatWasSlicedOff) {
  const Batch batch = three_sequences();
  for (int64_t at = 0; at <= 3; ++at) {
    Batch joined = batch.slice_sequences(0, at);
    joined.append(batch.slice_sequences(at, 3));
    EXPECT_EQ(joined, batch) << at;
  }
}

TEST(Batch, RefusesASliceOutsideIt) {
  EXPECT_THROW((void)three_sequences().slice_sequences(2, 4), InternalError);
  EXPECT_THROW((void)three_sequences().slice_sequences(2, 1), InternalError);
}

TEST(Batch, CheckFindsADocumentThatCrossesASequence) {
  Batch batch = three_sequences();
  batch.sequence_offsets = {0, 4, 6, 7};
  EXPECT_THROW(batch.check(), InternalError);
}

TEST(Batch, CheckFindsWrongPositionsAndSizes) {
  Batch batch = three_sequences();
  batch.positions[1] = 0;
  EXPECT_THROW(batch.check(), InternalError);
  batch = three_sequences();
  batch.targets.pop_back();
  EXPECT_THROW(batch.check(), InternalError);
  batch = three_sequences();
  batch.document_domain.pop_back();
  EXPECT_THROW(batch.check(), InternalError);
}

TEST(Batch, CannotEndASequenceWithoutTokens) {
  EXPECT_THROW(Batch{}.end_sequence(0), InternalError);
}

}  // namespace
}  // namespace sluice
