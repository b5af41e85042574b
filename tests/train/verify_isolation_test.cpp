#include "train/verify_isolation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tiny_trained.h"
#include "train/model_input.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::tiny_trained;

IsolationVerdict verify(TrainedModel& trained) {
  return verify_isolation({trained.recipe, *trained.pool, *trained.model, *trained.routing, {}});
}

// --- the probe -----------------------------------------------------------------------------------

TEST(IsolationBatch, HoldsDocumentsOfManyLengthsInTwoSequences) {
  const Batch batch = make_isolation_batch(50, 100);
  batch.check();
  EXPECT_EQ(batch.num_tokens(), 200);
  EXPECT_EQ(batch.num_sequences(), 2);
  EXPECT_GE(batch.num_documents(), 8);
  EXPECT_THAT(batch.document_offsets, ::testing::Contains(100)) << "a sequence ends a document";
  for (const int32_t token : batch.tokens) EXPECT_LT(token, 50);
}

TEST(TokenChanges, ReplaceOneTokenOfEveryDocument) {
  const Batch batch = make_isolation_batch(50, 100);
  const auto changes = make_token_changes(batch, 50);
  ASSERT_EQ(std::ssize(changes), batch.num_documents());
  for (const TokenChange& change : changes) {
    const auto at = static_cast<size_t>(
        batch.document_offsets[static_cast<size_t>(change.document)] + change.position);
    EXPECT_NE(batch.tokens[at], change.token);
    EXPECT_LT(change.token, 50);
  }
}

// --- the check, on models that are made up -------------------------------------------------------

/// Two documents of three tokens.
Batch two_documents() {
  Batch batch;
  batch.tokens = {1, 2, 3, 4, 5, 6};
  batch.targets = batch.tokens;
  batch.positions = {0, 1, 2, 0, 1, 2};
  batch.document_offsets = {0, 3, 6};
  batch.document_domain = {0, 0};
  batch.end_sequence(0);
  return batch;
}

constexpr TokenChange kChange = {.document = 1, .position = 1, .token = 9};

/// One logit per token: the sum of the tokens from `first(i)` to `last(i)`.
template <class First, class Last>
IsolationReport check_sums(First&& first, Last&& last) {
  return check_isolation(two_documents(), std::span(&kChange, 1), [&](const Batch& batch) {
    std::vector<double> logits;
    for (int64_t i = 0; i < batch.num_tokens(); ++i) {
      double sum = 0.0;
      for (int64_t j = first(i); j <= last(i); ++j) sum += batch.tokens[static_cast<size_t>(j)];
      logits.push_back(sum);
    }
    return logits;
  });
}

TEST(CheckIsolation, AcceptsSumsOverTheDocumentSoFar) {
  const auto report = check_sums([](int64_t i) { return i / 3 * 3; }, [](int64_t i) { return i; });
  EXPECT_TRUE(report.is_isolated());
  EXPECT_EQ(report.documents, 2);
  EXPECT_EQ(report.changes, 1);
}

TEST(CheckIsolation, FindsALookAhead) {
  const auto report =
      check_sums([](int64_t i) { return i / 3 * 3; }, [](int64_t i) { return i / 3 * 3 + 2; });
  EXPECT_FALSE(report.is_isolated());
  EXPECT_EQ(report.acausal_tokens, 1);
  EXPECT_EQ(report.leaked_tokens, 0);
  ASSERT_TRUE(report.worst.has_value());
  EXPECT_EQ(report.worst->document, 1);
  EXPECT_EQ(report.worst->position, 0);
  EXPECT_EQ(report.worst->difference, 4.0);
}

TEST(CheckIsolation, FindsALeakIntoAnotherDocument) {
  const auto report =
      check_sums([](int64_t) { return int64_t{0}; }, [](int64_t) { return int64_t{5}; });
  EXPECT_EQ(report.leaked_tokens, 3);
  EXPECT_EQ(report.acausal_tokens, 1);
}

TEST(CheckIsolation, FindsAModelThatDoesNotReadItsTokens) {
  const auto report =
      check_sums([](int64_t) { return int64_t{0}; }, [](int64_t) { return int64_t{-1}; });
  EXPECT_FALSE(report.is_isolated());
  EXPECT_EQ(report.mute.size(), 1u);
  EXPECT_EQ(report.leaked_tokens, 0);
}

TEST(CheckIsolation, SeesTheSignOfZero) {
  const auto report =
      check_isolation(two_documents(), std::span(&kChange, 1), [](const Batch& batch) {
        std::vector<double> logits(batch.tokens.begin(), batch.tokens.end());
        logits[0] = batch.tokens[4] == 9 ? -0.0 : 0.0;
        return logits;
      });
  EXPECT_EQ(report.leaked_tokens, 1);
}

// --- the check, on the real model ----------------------------------------------------------------

TEST(VerifyIsolation, HoldsForWindowsSharedExpertsAndLosses) {
  for (const char* changes : {"balance: {type: none}", "model: {attention: {window: 8}}",
                              "model: {experts: {shared: {num_experts: 1, intermediate_size: 8}}}",
                              "balance: [{type: global_aux_loss}, {type: router_z_loss}]"}) {
    TrainedModel trained = tiny_trained(changes);
    const IsolationVerdict verdict = verify(trained);
    EXPECT_TRUE(verdict.evaluation.is_isolated()) << changes;
    EXPECT_TRUE(verdict.training.is_isolated()) << changes;
    EXPECT_THAT(verdict.declared, IsEmpty()) << changes;
    EXPECT_TRUE(verdict.passes()) << changes;
  }
}

TEST(VerifyIsolation, CatchesALayoutThatLeaks) {
  TrainedModel trained = tiny_trained();
  const Batch batch = make_isolation_batch(trained.model->vocab_size(), 32);
  const auto changes = make_token_changes(batch, trained.model->vocab_size());
  const auto report = check_isolation(batch, changes, [&](const Batch& probe) {
    Batch leaking = probe;  // the boundaries between documents are lost
    leaking.document_offsets = leaking.sequence_offsets;
    leaking.document_domain.assign(2, 0);
    ModelInput input = make_model_input(*trained.pool, leaking);
    Tape tape(*trained.pool);
    const NoGrad no_grad(tape);
    const ForwardContext context{
        .tape = tape, .layout = input.layout, .routing = trained.routing.get()};
    trained.routing->begin_evaluation();
    const Tensor hidden = trained.model->forward(context, input.tokens).hidden;
    trained.routing->end_evaluation();
    const auto values = hidden.span<float>();
    return std::vector<double>(values.begin(), values.end());
  });
  EXPECT_FALSE(report.is_isolated());
  EXPECT_GT(report.leaked_tokens, 0);
  EXPECT_EQ(report.acausal_tokens, 0) << "attention still looks back only";
}

TEST(VerifyIsolation, LetsDeclaredMethodsDependOnTheMicroBatchInTraining) {
  TrainedModel trained = tiny_trained("balance: {type: bip}");
  const IsolationVerdict verdict = verify(trained);
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_THAT(verdict.declared,
              ElementsAre(HasSubstr("balance: bip chooses experts for a whole micro-batch")));
  EXPECT_TRUE(verdict.passes());
}

TEST(VerifyIsolation, NamesAFeedForwardThatSeesTheWholeMicroBatch) {
  TrainedModel trained = tiny_trained("model: {pattern: AEZE, variants: {Z: {type: monet}}}");
  const IsolationVerdict verdict = verify(trained);
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_THAT(verdict.declared,
              ElementsAre(HasSubstr("model.variants.Z: monet standardises the router's logits")));
  EXPECT_TRUE(verdict.passes());
}

TEST(VerifyIsolation, NamesACapacity) {
  TrainedModel trained = tiny_trained("model: {experts: {capacity_factor: 1.0}}");
  const IsolationVerdict verdict = verify(trained);
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_THAT(verdict.declared, ElementsAre(HasSubstr("model.experts.capacity_factor: 1")));
}

TEST(VerifyIsolation, LeavesTheBalancersAsTheyWere) {
  TrainedModel trained = tiny_trained("balance: {type: bip}", /*steps=*/2);
  const auto state = [&] {
    SaveVisitor save;
    trained.routing->visit_state(save);
    return save.take();
  };
  const StateDict before = state();
  (void)verify(trained);
  EXPECT_THAT(testing::differing_arrays(state(), before), IsEmpty());
}

TEST(IsolationVerdict, ForgivesOnlyWhatIsDeclared) {
  const IsolationReport leak{.leaked_tokens = 1};
  EXPECT_FALSE((IsolationVerdict{{}, leak, {}}).passes());
  EXPECT_TRUE((IsolationVerdict{{}, leak, {"bip"}}).passes());
  EXPECT_FALSE((IsolationVerdict{leak, {}, {"bip"}}).passes());
}

}  // namespace
}  // namespace sluice
