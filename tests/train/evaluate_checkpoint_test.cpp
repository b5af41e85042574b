#include "train/evaluate_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::tiny_checkpoint;
using testing::tiny_trained;

class EvaluateCheckpoint : public ::testing::Test {
 protected:
  std::string write(const std::string& name, std::string_view text) {
    std::ofstream(scratch_ / name) << text;
    return (scratch_ / name).string();
  }
  /// A model that thinks every token equally likely.
  static TrainedModel uniform_model(std::string_view changes = {}) {
    TrainedModel trained = tiny_trained(changes);
    for (Parameter* parameter : trained.model->parameters()) {
      if (parameter->name == "embedding.weight") parameter->value.fill_zero();
    }
    return trained;
  }

  ScratchFolder scratch_;
};

TEST_F(EvaluateCheckpoint, GivesTheLossThatTrainingReported) {
  const Checkpoint checkpoint = tiny_checkpoint("train: {evaluate: {max_tokens: 100}}", 3);
  TrainedModel trained = build_trained_model(checkpoint, "tiny.h5");
  ASSERT_TRUE(checkpoint.meta.eval_loss.has_value());
  EXPECT_EQ(evaluate_checkpoint(trained, {}).loss.per_token(), *checkpoint.meta.eval_loss);
}

TEST_F(EvaluateCheckpoint, OfAUniformModelIsTheLogarithmOfTheVocabulary) {
  TrainedModel trained = uniform_model();
  // 20 bytes and the token that ends the document: 20 predictions of 19 bytes of text.
  const std::string file = write("text.txt", "twenty bytes of text");
  const Evaluation result = evaluate_checkpoint(trained, {{file, "prose"}});
  constexpr double kVocabulary = 257.0;
  constexpr double kTolerance = 1e-6;  // of a logarithm in f32
  EXPECT_EQ(result.loss.tokens, 20);
  EXPECT_EQ(result.loss.bytes, 19);
  EXPECT_NEAR(result.loss.per_token(), std::log(kVocabulary), kTolerance * std::log(kVocabulary));
  EXPECT_NEAR(result.loss.perplexity(), kVocabulary, 10.0 * kTolerance * kVocabulary);
  EXPECT_NEAR(result.loss.bits_per_byte(), std::log2(kVocabulary) * 20.0 / 19.0, 1e-5);
}

TEST_F(EvaluateCheckpoint, ReadsFilesWholeAndKeepsDomainsApart) {
  TrainedModel trained = tiny_trained("train: {evaluate: {max_tokens: 5}}");
  const std::string code = write("code.txt", "int main() { return 0; } // and some more\n");
  const std::string more = write("more.txt", "int x;\n");
  const std::string prose = write("prose.txt", "It was a dark and stormy night.\n");
  const Evaluation result =
      evaluate_checkpoint(trained, {{code, "code"}, {prose, {}}, {more, "code"}});
  ASSERT_EQ(result.domains.size(), 2u);
  EXPECT_EQ(result.domains[0].domain, "code");
  EXPECT_EQ(result.domains[0].loss.tokens, 42 + 7);
  EXPECT_EQ(result.domains[1].domain, "prose");
  EXPECT_EQ(result.domains[1].loss.tokens, 32);
  EXPECT_EQ(result.loss.tokens, 42 + 7 + 32);
  EXPECT_DOUBLE_EQ(result.loss.nats, result.domains[0].loss.nats + result.domains[1].loss.nats);
}

TEST_F(EvaluateCheckpoint, ReportsTheLoadOfEveryExpertLayer) {
  TrainedModel trained = tiny_trained();
  const Evaluation result =
      evaluate_checkpoint(trained, {{write("text.txt", "twenty bytes of text"), {}}});
  ASSERT_EQ(result.loads.size(), 2u);
  for (const LayerLoad& load : result.loads) {
    EXPECT_EQ(load.tokens, 20);
    EXPECT_EQ(load.counts[0] + load.counts[1] + load.counts[2] + load.counts[3], 40);
  }
}

TEST_F(EvaluateCheckpoint, NeedsNoLengthOfARunInEpochs) {
  TrainedModel trained = tiny_trained("train: {steps: 2 epochs}");
  const std::string file = write("text.txt", "some text");
  EXPECT_EQ(evaluate_checkpoint(trained, {{file, {}}}).loss.tokens, 9);
}

TEST_F(EvaluateCheckpoint, SaysWhatToDoWhenNothingIsHeldOut) {
  TrainedModel trained = tiny_trained("data: {held_out: {fraction: 0}}");
  try {
    (void)evaluate_checkpoint(trained, {});
    ADD_FAILURE();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "the recipe holds nothing out (data.held_out); name files with --data");
  }
}

TEST_F(EvaluateCheckpoint, RefusesAMissingFileAndInvalidText) {
  TrainedModel trained = tiny_trained();
  EXPECT_THROW((void)evaluate_checkpoint(trained, {{(scratch_ / "none.txt").string(), {}}}),
               ConfigError);
  const std::string invalid = write("invalid.txt", "ab\xFF");
  EXPECT_THROW((void)evaluate_checkpoint(trained, {{invalid, {}}}), DataError);
}

TEST_F(EvaluateCheckpoint, TellsADomainFromACommaInAName) {
  const std::string odd = write("a,b.txt", "text");
  EXPECT_EQ(EvaluationText::parse(odd).path, odd);
  EXPECT_EQ(EvaluationText::parse(odd).domain, "");
  EXPECT_EQ(EvaluationText::parse(odd + ",prose").path, odd);
  EXPECT_EQ(EvaluationText::parse(odd + ",prose").domain, "prose");
  EXPECT_EQ(EvaluationText::parse("plain.txt").path, "plain.txt");
}

}  // namespace
}  // namespace sluice
