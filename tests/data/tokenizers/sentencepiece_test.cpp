#include "data/tokenizers/sentencepiece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <thread>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "data/tokenizers/segments.h"
#include "tests/data/support.h"

namespace sluice {
namespace {

using namespace std::string_view_literals;
using ::testing::ElementsAre;

/// Words of three syllables each, enough different ones for a few hundred pieces, and some lines of
/// code.
std::string prose() {
  constexpr std::array<std::string_view, 12> kSyllables = {
      "ta", "ri", "mo", "sel", "ken", "du", "pla", "vor", "in", "est", "ghu", "caf\xC3\xA9"};
  const RandomKey key{.purpose = RandomPurpose::test};
  std::string text;
  for (uint64_t line = 0; line < 60; ++line) {
    for (uint64_t i = 0; i < 24; ++i) {
      if (i % 3 == 0) text += ' ';
      text += kSyllables[uniform_below(key, line, i, kSyllables.size())];
    }
    text += line % 5 == 0 ? ".\n\n    return x + y;  // done\n" : ",\n";
  }
  return text;
}

std::unique_ptr<Tokenizer> trained(const std::string& text, SentencePieceConfig config) {
  const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(text); };
  return load_sentencepiece(train_sentencepiece(config, corpus));
}

SentencePieceConfig small_config(std::string algorithm) {
  SentencePieceConfig config;
  config.vocab_size = 340;
  config.algorithm = std::move(algorithm);
  return config;
}

class SentencePiece : public ::testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    for (const std::string& algorithm : {std::string("bpe"), std::string("unigram")}) {
      tokenizers_[algorithm] = trained(prose(), small_config(algorithm));
    }
  }
  static void TearDownTestSuite() { tokenizers_.clear(); }
  static const Tokenizer& tokenizer() { return *tokenizers_.at(GetParam()); }

 private:
  static inline std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers_;
};

INSTANTIATE_TEST_SUITE_P(Algorithms, SentencePiece, ::testing::Values("bpe", "unigram"),
                         [](const auto& instance) { return instance.param; });

TEST_P(SentencePiece, GivesNastyTextBackByteForByte) {
  const std::string_view texts[] = {
      "",
      " ",
      "\n",
      "\n\n\n",
      "  two leading, two trailing  ",
      "a    b\t\tc\t",
      "line\r\nline\r\n",
      "\xE2\x96\x81",
      "a\xE2\x96\x81 \xE2\x96\x81\xE2\x96\x81 b",
      "\xE2\x96\x85 block",
      "a\0b\0"sv,
      "\xEF\xBB\xBF byte order mark",
      "<s></s><unk><0x41><pad>",
      "\xEF\xAC\x81 \xE2\x91\xA0 e\xCC\x81 \xC3\xA9 \xE2\x84\xAB \xEF\xBC\xA1",
      "\xC2\xA0\xE3\x80\x80\xE2\x80\x8B\xE2\x80\xA8\x0B\x0C\x1F\x7F",
      "\xEF\xBF\xBE\xEF\xBF\xBF\xEF\xBF\xBD\xEF\xB7\x90",
      "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB \xF4\x8F\xBF\xBF",
  };
  EXPECT_TRUE(tokenizer().is_lossless());
  for (const std::string_view text : texts) {
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text)), text);
  }
}

TEST_P(SentencePiece, GivesRandomUnicodeBackByteForByte) {
  for (uint64_t sample = 0; sample < 200; ++sample) {
    const std::string text = testing::random_utf8(sample, 60);
    ASSERT_EQ(tokenizer().decode(tokenizer().encode(text)), text) << "sample " << sample;
  }
}

TEST_P(SentencePiece, NeverProducesTheUnknownOrEndToken) {
  for (uint64_t sample = 0; sample < 50; ++sample) {
    for (const int32_t id : tokenizer().encode(testing::random_utf8(sample, 60) + "</s><unk>")) {
      ASSERT_NE(id, 0);
      ASSERT_NE(id, tokenizer().eos_id());
    }
  }
}

TEST_P(SentencePiece, CompressesTheTextItWasTrainedOn) {
  const std::string text = prose();
  EXPECT_LT(tokenizer().encode(text).size(), text.size() / 2);
}

TEST_P(SentencePiece, TrainsTheSameModelTwice) {
  EXPECT_EQ(trained(prose(), small_config(GetParam()))->serialize(), tokenizer().serialize());
}

TEST_P(SentencePiece, TrainsOnReservedAndUnusualCharacters) {
  std::string text = prose();
  for (uint64_t sample = 0; sample < 20; ++sample) text += testing::random_utf8(sample, 40) + "\n";
  text += "tab\tNUL\0 \xE2\x96\x81 \xE2\x96\x85 \xEF\xBF\xBE\n"sv;
  SentencePieceConfig config = small_config(GetParam());
  config.character_coverage = 0.98;
  config.vocab_size = 600;
  const auto other = trained(text, config);
  EXPECT_EQ(other->decode(other->encode(text)), text);
}

TEST_P(SentencePiece, SurvivesSerialization) {
  const auto copy = deserialize_tokenizer(tokenizer().kind(), tokenizer().serialize());
  EXPECT_EQ(copy->vocab_size(), 340);
  EXPECT_EQ(copy->eos_id(), 1);
  EXPECT_EQ(copy->bos_id(), std::nullopt);
  EXPECT_EQ(copy->encode(prose()), tokenizer().encode(prose()));
}

TEST_P(SentencePiece, SamplesALargeCorpusToItsByteLimit) {
  SentencePieceConfig config = small_config(GetParam());
  config.vocab_size = 310;
  config.training_bytes = static_cast<int64_t>(prose().size()) / 2;
  const auto half = trained(prose(), config);
  EXPECT_EQ(half->vocab_size(), 310);
  EXPECT_EQ(half->serialize(), trained(prose(), config)->serialize());
}

TEST_P(SentencePiece, SaysHowManyPiecesTheTextSupports) {
  SentencePieceConfig config = small_config(GetParam());
  config.vocab_size = 100'000;
  EXPECT_EQ(testing::message_of<DataError>([&] {
              trained("to be or not to be\n", config);
            }).substr(0, 63),
            "tokenizer: vocab_size is 100000, but the text has only enough f");
}

TEST_P(SentencePiece, RefusesAVocabularySmallerThanItsCharacters) {
  SentencePieceConfig config = small_config(GetParam());
  config.vocab_size = 260;
  config.character_coverage = 1.0;
  EXPECT_EQ(testing::message_of<DataError>([&] { trained(prose(), config); }),
            "tokenizer: vocab_size 260 has no room for the text's characters at character_coverage "
            "1; raise the first or lower the second");
}

TEST(SentencePieceErrors, AreOneSentence) {
  EXPECT_EQ(testing::message_of<DataError>([] { trained("", small_config("bpe")); }),
            "tokenizer: there is no text to train on");
  EXPECT_EQ(testing::message_of<DataError>([] { (void)load_sentencepiece("garbage"); }),
            "not a SentencePiece model (7 bytes)");
  const auto tokenizer = trained(prose(), small_config("bpe"));
  EXPECT_EQ(testing::message_of<DataError>([&] { (void)tokenizer->encode("ab\xFF"); }),
            "invalid UTF-8 at byte 2 of the text");
  EXPECT_EQ(testing::message_of<DataError>([&] { (void)tokenizer->token_bytes(340); }),
            "token id 340 is outside the vocabulary of 340 sentencepiece tokens");
}

TEST(ThreadsSharingATokenizer, EncodeAndDecodeAsOneAlone) {
  const auto tokenizer = trained(prose(), small_config("bpe"));
  const std::string text = prose() + testing::random_utf8(1, 200);
  const std::vector<int32_t> expected = tokenizer->encode(text);
  std::array<bool, 4> agrees{};
  {
    std::vector<std::jthread> threads;
    for (bool& mine : agrees) {
      threads.emplace_back([&] {
        mine = tokenizer->encode(text) == expected && tokenizer->decode(expected) == text;
      });
    }
  }
  EXPECT_THAT(agrees, ::testing::Each(true));
}

std::vector<std::string> segments(std::string_view text) {
  std::vector<std::string> result;
  for_each_segment(text, [&](std::string_view segment) { result.emplace_back(segment); });
  return result;
}

TEST(Segments, EndAfterARunOfLineBreaks) {
  EXPECT_THAT(segments("a\n\n\n  b\nc"), ElementsAre("a\n\n\n", "  b\n", "c"));
  EXPECT_THAT(segments("\n\nx"), ElementsAre("\n\n", "x"));
  EXPECT_THAT(segments(""), ElementsAre());
}

TEST(Segments, OfALongLineEndBeforeASpaceOrBetweenCharacters) {
  const std::string word(kMaxSegmentBytes - 5, 'x');
  EXPECT_THAT(segments(word + " abcdefgh"), ElementsAre(word, " abcdefgh"));
  std::string wide = "a";
  while (wide.size() < kMaxSegmentBytes + 2) wide += "\xC3\xA9";
  const auto parts = segments(wide);
  ASSERT_EQ(parts.size(), 2);
  EXPECT_EQ(parts[0].size(), kMaxSegmentBytes - 1);
  EXPECT_EQ(parts[0] + parts[1], wide);
}

}  // namespace
}  // namespace sluice
