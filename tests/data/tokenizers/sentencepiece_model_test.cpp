#include "data/tokenizers/sentencepiece_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/tokenizers/sentencepiece.h"

namespace sluice {
namespace {

using Kind = SentencePieceVocabulary::Kind;

std::string trained_model() {
  const std::string text = "to be or not to be, that is the question\n";
  const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(text); };
  SentencePieceConfig config;
  config.vocab_size = 280;
  return train_sentencepiece(config, corpus);
}

TEST(SentencePieceModel, OfTheLibraryIsTakenApart) {
  const auto vocabulary = parse_sentencepiece(trained_model());
  ASSERT_TRUE(vocabulary.has_value());
  EXPECT_EQ(vocabulary->pieces.size(), 280u);
  EXPECT_EQ(vocabulary->pieces[0].kind, Kind::unknown);
  EXPECT_EQ(vocabulary->pieces[1].kind, Kind::control);
  EXPECT_EQ(vocabulary->pieces[2].text, "<0x00>");
  EXPECT_EQ(vocabulary->pieces[2].kind, Kind::byte);
  EXPECT_EQ(vocabulary->pieces[258].kind, Kind::normal);
  EXPECT_TRUE(vocabulary->is_bpe);
  EXPECT_FALSE(vocabulary->adds_space_before);
  EXPECT_FALSE(vocabulary->normalises());
  EXPECT_EQ(vocabulary->bos, std::nullopt);
  EXPECT_EQ(vocabulary->eos, 1);
}

TEST(SentencePieceModel, PutTogetherAgainEncodesTheSame) {
  const std::string model = trained_model();
  const auto before = load_sentencepiece(model);
  const auto after = load_sentencepiece(serialize_sentencepiece(*parse_sentencepiece(model)));
  const std::string text = "to be the question? n\xC3\xB6t  that\n";
  EXPECT_EQ(after->encode(text), before->encode(text));
  EXPECT_EQ(after->decode(after->encode(text)), text);
  EXPECT_EQ(after->bos_id(), before->bos_id());
  EXPECT_EQ(after->eos_id(), before->eos_id());
  EXPECT_TRUE(after->is_lossless());
}

TEST(SentencePieceModel, OtherBytesAreNone) {
  const std::string model = trained_model();
  EXPECT_FALSE(parse_sentencepiece("").has_value());
  EXPECT_FALSE(parse_sentencepiece(model.substr(0, model.size() - 1)).has_value());
  EXPECT_FALSE(parse_sentencepiece("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01").has_value());
  EXPECT_FALSE(parse_sentencepiece(std::string(100, '\xFF')).has_value());
}

}  // namespace
}  // namespace sluice
