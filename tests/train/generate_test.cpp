#include "train/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_trained.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::logits_of;
using testing::tiny_trained;

class Generate : public ::testing::Test {
 protected:
  Generation generate(const GenerateOptions& options) {
    text_.clear();
    return sluice::generate(trained_, prompt_, options,
                            [&](std::string_view piece) { text_ += piece; });
  }
  std::string error_of(const GenerateOptions& options) {
    return testing::error_of<Error>([&] { (void)generate(options); });
  }

  // With a context of 40 tokens.
  TrainedModel trained_ = tiny_trained("model: {attention: {max_position_embeddings: 40}}");
  std::vector<int32_t> prompt_ = {5, 17, 3};
  std::string text_;
};

constexpr SamplingOptions kGreedy = {.temperature = 0.0};

TEST_F(Generate, AtTemperatureZeroTakesTheLikeliestTokenOfAFullForward) {
  const Generation result = generate({.max_tokens = 20, .sampling = kGreedy});
  ASSERT_EQ(result.tokens.size(), 20u);
  EXPECT_EQ(result.end, GenerationEnd::max_tokens);
  std::vector<int32_t> all = prompt_;
  all.insert(all.end(), result.tokens.begin(), result.tokens.end());
  const std::vector<double> logits = logits_of(trained_, all);
  const auto width = trained_.model->vocab_size();
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const auto row = logits.begin() + static_cast<int64_t>(prompt_.size() + i - 1) * width;
    EXPECT_EQ(result.tokens[i], std::max_element(row, row + width) - row) << "token " << i;
  }
}

TEST_F(Generate, EmitsTheTextOfItsTokens) {
  trained_ = tiny_trained("data: {tokenizer: {type: bytes}}");
  const Generation result = generate({.max_tokens = 30, .seed = 4});
  StreamDecoder decoder(*trained_.tokenizer);
  std::string expected;
  for (const int32_t token : result.tokens) expected += decoder.push(token);
  EXPECT_EQ(text_, expected + decoder.flush());
  EXPECT_FALSE(text_.empty());
}

TEST_F(Generate, GivesEqualTextForEqualSeeds) {
  const auto first = generate({.max_tokens = 30, .seed = 7});
  EXPECT_EQ(generate({.max_tokens = 30, .seed = 7}).tokens, first.tokens);
  EXPECT_NE(generate({.max_tokens = 30, .seed = 8}).tokens, first.tokens);
  EXPECT_NE(generate({.max_tokens = 30, .seed = 7, .sample = 1}).tokens, first.tokens);
}

TEST_F(Generate, DoesNotDependOnWhatWasGeneratedBefore) {
  const auto second = generate({.max_tokens = 30, .seed = 7, .sample = 1});
  (void)generate({.max_tokens = 12, .seed = 7, .sample = 0});
  EXPECT_EQ(generate({.max_tokens = 30, .seed = 7, .sample = 1}).tokens, second.tokens);
  EXPECT_THAT(generate({.max_tokens = 10, .seed = 7, .sample = 1}).tokens,
              ::testing::ElementsAreArray(second.tokens.begin(), second.tokens.begin() + 10));
}

TEST_F(Generate, ReadsAPromptAtOnceOrInParts) {
  // The first token after a prompt is the one that the same prompt gives when it was generated.
  const auto whole = generate({.max_tokens = 8, .sampling = kGreedy});
  prompt_.insert(prompt_.end(), whole.tokens.begin(), whole.tokens.begin() + 4);
  EXPECT_THAT(generate({.max_tokens = 4, .sampling = kGreedy}).tokens,
              ::testing::ElementsAreArray(whole.tokens.begin() + 4, whole.tokens.end()));
}

TEST_F(Generate, EndsAtAStopTokenAndLeavesItOutOfTheText) {
  const auto all = generate({.max_tokens = 12, .sampling = kGreedy});
  const int32_t stop = all.tokens[5];
  const auto first = std::find(all.tokens.begin(), all.tokens.end(), stop) - all.tokens.begin();
  const auto result = generate({.max_tokens = 12, .sampling = kGreedy, .stop_tokens = {stop}});
  EXPECT_EQ(result.end, GenerationEnd::stopped);
  EXPECT_THAT(result.tokens,
              ::testing::ElementsAreArray(all.tokens.begin(), all.tokens.begin() + first + 1));
  const auto shown = std::span(all.tokens).first(static_cast<size_t>(first));
  StreamDecoder decoder(*trained_.tokenizer);
  std::string expected;
  for (const int32_t token : shown) expected += decoder.push(token);
  EXPECT_EQ(text_, expected + decoder.flush());
}

TEST_F(Generate, EndsAtAStopTextAndLeavesItOut) {
  (void)generate({.max_tokens = 20, .sampling = kGreedy});
  const std::string all = text_;
  ASSERT_GE(all.size(), 6u);
  const std::string stop = all.substr(4, 2);
  const auto result = generate({.max_tokens = 20, .sampling = kGreedy, .stop_texts = {stop}});
  EXPECT_EQ(result.end, GenerationEnd::stopped);
  EXPECT_EQ(text_, all.substr(0, all.find(stop)));
}

TEST_F(Generate, StopsWhenTheContextIsFull) {
  const auto result = generate({.max_tokens = 100});
  EXPECT_EQ(result.end, GenerationEnd::context_full);
  EXPECT_EQ(result.tokens.size(), 37u);
}

TEST_F(Generate, RefusesAPromptThatFillsTheContext) {
  prompt_.assign(40, 1);
  EXPECT_THAT(error_of({}), HasSubstr("--prompt: found 40 tokens, allowed at most 39: the model "
                                      "reads 40 (model.attention.max_position_embeddings"));
  prompt_.assign(39, 1);
  EXPECT_EQ(error_of({}), "no error");
}

TEST_F(Generate, RefusesSamplingThatIsOutOfRange) {
  EXPECT_THAT(error_of({.sampling = {.top_p = 2.0}}), HasSubstr("--top-p"));
}

TEST_F(Generate, ReportsLogitsThatAreNotNumbers) {
  for (Parameter* parameter : trained_.model->parameters()) {
    if (parameter->name == "final_norm.weight") {
      for (float& value : parameter->value.span<float>()) value = std::nanf("");
    }
  }
  EXPECT_THAT(error_of({}), HasSubstr("damaged or diverged"));
}

TEST_F(Generate, LeavesTheModelAsItWas) {
  const auto state = [&] {
    SaveVisitor save;
    visit_parameters(*trained_.model, save);
    trained_.routing->visit_state(save);
    return save.take();
  };
  const StateDict before = state();
  (void)generate({.max_tokens = 10});
  EXPECT_THAT(testing::differing_arrays(state(), before), IsEmpty());
  EXPECT_FALSE(trained_.routing->evaluating());
}

TEST_F(Generate, WorksWithLearnedPositionsAndNoRotation) {
  trained_ = tiny_trained("model: {learned_positions: 33, attention: {rope_theta: none}}");
  const auto result = generate({.max_tokens = 100, .sampling = kGreedy});
  EXPECT_EQ(result.end, GenerationEnd::context_full);
  EXPECT_EQ(result.tokens.size(), 30u);
}

// --- the context and the prompt ------------------------------------------------------------------

TEST(MaxContext, IsTheShorterOfRotationAndLearnedPositions) {
  const auto context = [](std::string_view model) {
    return max_context(testing::tiny_recipe(fmt::format("model: {}", model)).model);
  };
  EXPECT_EQ(context("{attention: {max_position_embeddings: 64}}"), 64);
  EXPECT_EQ(context("{attention: {max_position_embeddings: 64}, learned_positions: 48}"), 48);
  EXPECT_EQ(context("{attention: {rope_theta: none}, learned_positions: 48}"), 48);
  EXPECT_EQ(context("{attention: {rope_theta: none}}"), std::nullopt);
}

TEST(EncodePrompt, TakesTheTokensOfTheText) {
  const TrainedModel trained = tiny_trained();
  EXPECT_THAT(encode_prompt(*trained.tokenizer, "ab"), ElementsAre('a', 'b'));
}

TEST(EncodePrompt, StartsAnEmptyOneWithTheTokenThatEndsADocument) {
  const TrainedModel trained = tiny_trained();
  EXPECT_THAT(encode_prompt(*trained.tokenizer, ""), ElementsAre(256));
}

TEST(EncodePrompt, RefusesInvalidUtf8WithItsPlace) {
  const TrainedModel trained = tiny_trained();
  try {
    (void)encode_prompt(*trained.tokenizer, "ab\xFFz");
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_STREQ(error.what(), "the prompt: invalid UTF-8 at byte 2");
  }
}

}  // namespace
}  // namespace sluice
