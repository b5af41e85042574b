// Worked splits of published patterns, and the behaviours by their definitions.

#include "data/tokenizers/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/support.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseekLetters =
    R"x([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)x";

std::vector<std::string> pieces(const PreTokenizer& cutter, std::string_view text) {
  RegexScratch scratch;
  std::vector<std::string> found;
  cutter.for_each_piece(text, scratch, [&](std::string_view piece) { found.emplace_back(piece); });
  return found;
}

std::vector<std::string> by(std::string_view pattern, std::string_view text,
                            SplitBehavior behavior = SplitBehavior::isolated,
                            bool inverted = false) {
  PreTokenizer cutter;
  cutter.add_split(pattern, behavior, inverted);
  return pieces(cutter, text);
}

std::vector<std::string> gpt2(std::string_view text) {
  PreTokenizer cutter;
  cutter.add_gpt2_split();
  return pieces(cutter, text);
}

TEST(PreTokenizer, CutsAsGpt2) {
  EXPECT_THAT(gpt2("Hello, I'll  go\n\n 123 4!"),
              ElementsAre("Hello", ",", " I", "'ll", " ", " go", "\n\n", " 123", " 4", "!"));
  EXPECT_THAT(gpt2("can't CAN'T"), ElementsAre("can", "'t", " CAN", "'", "T"));
  EXPECT_THAT(gpt2("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(gpt2("\t\tif x:"), ElementsAre("\t", "\t", "if", " x", ":"));
  EXPECT_THAT(gpt2(""), IsEmpty());
}

TEST(PreTokenizer, CutsOtherScriptsAsGpt2) {
  EXPECT_THAT(gpt2("漢字かな 日本"), ElementsAre("漢字かな", " 日本"));
  EXPECT_THAT(gpt2("a😀😀 b"), ElementsAre("a", "😀😀", " b"));
  // A combining accent is neither a letter nor a digit nor white space.
  EXPECT_THAT(gpt2("e\xCC\x81x"), ElementsAre("e", "\xCC\x81", "x"));
}

TEST(PreTokenizer, CutsAsLlama3) {
  EXPECT_THAT(by(kLlama3, "CAN'T we'Ll"), ElementsAre("CAN", "'T", " we", "'Ll"));
  EXPECT_THAT(by(kLlama3, "in 1234567"), ElementsAre("in", " ", "123", "456", "7"));
  EXPECT_THAT(by(kLlama3, "x!!\n\ny"), ElementsAre("x", "!!\n\n", "y"));
  EXPECT_THAT(by(kLlama3, "a \n b   go"), ElementsAre("a", " \n", " b", "  ", " go"));
  EXPECT_THAT(by(kLlama3, " \t\n\n  x"), ElementsAre(" \t\n\n", " ", " x"));
  EXPECT_THAT(by(kLlama3, "a\r\n\r\n"), ElementsAre("a", "\r\n\r\n"));
  EXPECT_THAT(by(kLlama3, "(hello) "), ElementsAre("(hello", ")", " "));
  EXPECT_THAT(by(kLlama3, "漢字、日本😀😀 b"), ElementsAre("漢字", "、日本", "😀😀", " b"));
  EXPECT_THAT(by(kLlama3, "e\xCC\x81x"), ElementsAre("e", "\xCC\x81x"));
}

TEST(PreTokenizer, CutsDigitsOneByOneAsQwen2) {
  EXPECT_THAT(by(kQwen2, "v1.25\xC2\xBD"), ElementsAre("v", "1", ".", "2", "5", "\xC2\xBD"));
}

TEST(PreTokenizer, CutsInSeveralStepsAsDeepseek) {
  PreTokenizer cutter;
  cutter.add_split(R"(\p{N}{1,3})", SplitBehavior::isolated, false);
  cutter.add_split("[一-龥぀-ゟ゠-ヿ]+", SplitBehavior::isolated, false);
  cutter.add_split(kDeepseekLetters, SplitBehavior::isolated, false);
  EXPECT_THAT(pieces(cutter, "abc1234漢字 def"), ElementsAre("abc", "123", "4", "漢字", " def"));
  EXPECT_THAT(pieces(cutter, ".net e\xCC\x81x"), ElementsAre(".net", " e\xCC\x81x"));
}

TEST(PreTokenizer, KnowsFiveBehaviors) {
  constexpr std::string_view kText = "a--b-";
  EXPECT_THAT(by("-", kText), ElementsAre("a", "-", "-", "b", "-"));
  EXPECT_THAT(by("-", kText, SplitBehavior::removed), ElementsAre("a", "b"));
  EXPECT_THAT(by("-", kText, SplitBehavior::merged_with_previous), ElementsAre("a-", "-", "b-"));
  EXPECT_THAT(by("-", kText, SplitBehavior::merged_with_next), ElementsAre("a", "-", "-b", "-"));
  EXPECT_THAT(by("-", kText, SplitBehavior::contiguous), ElementsAre("a", "--", "b", "-"));
  // Inverted, the letters are the matches.
  EXPECT_THAT(by("-", kText, SplitBehavior::removed, true), ElementsAre("-", "-", "-"));
  EXPECT_THAT(by("-", kText, SplitBehavior::merged_with_next, true), ElementsAre("a-", "-", "b-"));
}

TEST(PreTokenizer, CutsAtEmptyMatches) {
  EXPECT_THAT(by(R"((?=\p{Lu}))", "aBcD"), ElementsAre("a", "Bc", "D"));
}

TEST(PreTokenizer, PutsASpaceInFrontOfWhatHasNone) {
  PreTokenizer cutter;
  cutter.add_space_before();
  cutter.add_gpt2_split();
  EXPECT_THAT(pieces(cutter, "ab cd"), ElementsAre(" ab", " cd"));
  EXPECT_THAT(pieces(cutter, " ab"), ElementsAre(" ab"));
  EXPECT_FALSE(cutter.is_lossless());
}

TEST(PreTokenizer, LosesNothing) {
  for (uint64_t sample = 0; sample < 50; ++sample) {
    const std::string text = testing::random_utf8(sample, 200);
    for (const std::string_view pattern : {kLlama3, kQwen2, kDeepseekLetters}) {
      std::string joined;
      for (const std::string& piece : by(pattern, text)) joined += piece;
      EXPECT_EQ(joined, text);
    }
  }
}

}  // namespace
}  // namespace sluice
