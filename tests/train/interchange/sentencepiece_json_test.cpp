#include "train/interchange/sentencepiece_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::error_of;
using Kind = SentencePieceVocabulary::Kind;

/// Spaces are written as underscores.
SentencePieceVocabulary vocabulary_of(const std::vector<SentencePieceVocabulary::Piece>& pieces) {
  SentencePieceVocabulary vocabulary;
  vocabulary.pieces = {{"<unk>", 0.0f, Kind::unknown}, {"</s>", 0.0f, Kind::control}};
  vocabulary.eos = 1;
  vocabulary.adds_space_before = false;
  for (SentencePieceVocabulary::Piece piece : pieces) {
    if (piece.text.front() == '_') piece.text = "\xE2\x96\x81" + piece.text.substr(1);
    vocabulary.pieces.push_back(piece);
  }
  return vocabulary;
}

json json_of(const SentencePieceVocabulary& vocabulary, bool by_lines = false) {
  return json::parse(sentencepiece_json(vocabulary, by_lines).dump());
}

using Texts = std::vector<std::string>;

TEST(SentencePieceJson, OrdersMergesByTheScoreOfWhatTheyMake) {
  const json model = json_of(vocabulary_of({{"a", -9.0f},
                                            {"b", -8.0f},
                                            {"aab", -2.0f},
                                            {"aa", -3.0f},
                                            {"ab", -1.0f},
                                            {"ba", -4.0f, Kind::unused}}))["model"];
  EXPECT_EQ(model["type"], "BPE");
  EXPECT_EQ(model["vocab"]["aab"], 4);
  // Of the two ways to aab the one with the longer left part comes first; nothing merges to ba.
  EXPECT_THAT(model["merges"].get<Texts>(), ElementsAre("a b", "aa b", "a ab", "a a"));
  EXPECT_EQ(model["unk_token"], "<unk>");
  EXPECT_EQ(model["byte_fallback"], false);
}

TEST(SentencePieceJson, CutsBetweenCharacters) {
  const json model =
      json_of(vocabulary_of({{"\xC3\xA9", -2.0f}, {"\xC3\xA9\xC3\xA9", -1.0f}}))["model"];
  EXPECT_THAT(model["merges"].get<Texts>(), ElementsAre("\xC3\xA9 \xC3\xA9"));
}

TEST(SentencePieceJson, KeepsTokensBesideTextsApart) {
  const json file = json_of(vocabulary_of({{"a", -1.0f}}));
  const json& added = file["added_tokens"];
  ASSERT_EQ(added.size(), 2u);
  EXPECT_EQ(added[0]["content"], "<unk>");
  EXPECT_EQ(added[1]["id"], 1);
  EXPECT_EQ(added[1]["special"], true);
  EXPECT_EQ(added[1]["normalized"], false);
  EXPECT_EQ(file["model"]["ignore_merges"], false);
}

TEST(SentencePieceJson, CutsTheUsersOwnPiecesOutOfTextsTheLongestFirst) {
  const json file = json_of(vocabulary_of({{"a+", 0.0f, Kind::user_defined},
                                           {"a+(b|c)", 0.0f, Kind::user_defined},
                                           {"a", -1.0f}}),
                            true);
  const json& steps = file["pre_tokenizer"]["pretokenizers"];
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[1]["pattern"]["Regex"], R"(a\+\(b\|c\)|a\+)");
  EXPECT_EQ(file["model"]["ignore_merges"], true);
  EXPECT_EQ(file["added_tokens"].size(), 2u);
}

TEST(SentencePieceJson, LetsNoTextMatchThePiecesOfAUnigramModelThatAreNone) {
  SentencePieceVocabulary vocabulary =
      vocabulary_of({{"<0x00>", 0.0f, Kind::byte}, {"a", -3.5f}, {"b", -7.25f}});
  vocabulary.is_bpe = false;
  vocabulary.is_unigram = true;
  const json model = json_of(vocabulary)["model"];
  EXPECT_EQ(model["type"], "Unigram");
  EXPECT_EQ(model["unk_id"], 0);
  EXPECT_EQ(model["vocab"][3], (json{"a", -3.5}));
  for (const size_t id : {0u, 1u, 2u}) EXPECT_LT(model["vocab"][id][1].get<double>(), -1000.0) << id;
}

TEST(SentencePieceJson, SaysWhatHappensToSpaces) {
  SentencePieceVocabulary vocabulary = vocabulary_of({{"a", -1.0f}});
  const auto steps = [&] {
    Texts types;
    const json file = json_of(vocabulary);
    for (const json* list : {&file["normalizer"]["normalizers"], &file["decoder"]["decoders"]}) {
      for (const json& step : *list) types.push_back(step["type"].get<std::string>());
    }
    return types;
  };
  EXPECT_THAT(steps(), ElementsAre("Replace", "Replace", "ByteFallback", "Fuse"));
  vocabulary.adds_space_before = true;
  EXPECT_THAT(steps(),
              ElementsAre("Prepend", "Replace", "Replace", "ByteFallback", "Fuse", "Strip"));
  vocabulary.removes_extra_spaces = true;
  vocabulary.rules = "rules!";
  EXPECT_THAT(steps(), ElementsAre("Precompiled", "Strip", "Replace", "Prepend", "Replace",
                                   "Replace", "ByteFallback", "Fuse", "Strip"));
  const json file = json_of(vocabulary);
  EXPECT_EQ(file["normalizer"]["normalizers"][0]["precompiled_charsmap"], "cnVsZXMh");
  EXPECT_TRUE(file["pre_tokenizer"].is_null());
  EXPECT_EQ(json_of(vocabulary, true)["pre_tokenizer"]["pretokenizers"].size(), 1u);
}

TEST(SentencePieceJson, WritesRulesInFoursOfLetters) {
  SentencePieceVocabulary vocabulary = vocabulary_of({{"a", -1.0f}});
  const auto letters = [&](std::string rules) {
    vocabulary.rules = std::move(rules);
    return json_of(vocabulary)["normalizer"]["normalizers"][0]["precompiled_charsmap"];
  };
  EXPECT_EQ(letters("M"), "TQ==");
  EXPECT_EQ(letters("Ma"), "TWE=");
  EXPECT_EQ(letters("Man"), "TWFu");
  EXPECT_EQ(letters("\xFF\xFE\xFD\xFC"), "//79/A==");
}

TEST(SentencePieceJson, RefusesModelsOfWordsAndPiecesThatAreNoText) {
  SentencePieceVocabulary vocabulary = vocabulary_of({{"a", -1.0f}, {"\xFF", -2.0f}});
  EXPECT_EQ(error_of<CheckpointError>([&] { (void)sentencepiece_json(vocabulary, false); }),
            "piece 3 of its SentencePiece model is no valid UTF-8");
  vocabulary.is_bpe = false;
  EXPECT_THAT(error_of<CheckpointError>([&] { (void)sentencepiece_json(vocabulary, false); }),
              HasSubstr("allowed bpe or unigram"));
}

}  // namespace
}  // namespace sluice
