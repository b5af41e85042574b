#include "data/tokenizers/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/data/field_setter.h"
#include "tests/data/support.h"
#include "tests/data/tokenizers/byte_level_file.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::added;
using testing::byte_level;
using testing::byte_level_file;
using testing::json;
using testing::message_of;
using testing::sequence;
using testing::split;
using testing::write_file;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// lo 256, low 257, er 258, " low" 259, 12 260, "12" "3" 261, <|endoftext|> 262
json gpt2_file() {
  return byte_level_file(
      {{"l", "o"}, {"lo", "w"}, {"e", "r"}, {" ", "low"}, {"1", "2"}, {"12", "3"}});
}

class TokenizerJsonFile : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const json& file, const testing::FieldValues& options = {}) {
    testing::FieldValues values = options;
    values["path"] = write_file(folder_ / "tokenizer.json", file.dump());
    for (const Choice& choice : tokenizer_choices()) {
      if (choice.name != "tokenizer_json") continue;
      auto config = choice.make_config();
      testing::set_fields(*config, values);
      return make_tokenizer({"tokenizer_json", std::move(config)},
                            [](FunctionRef<void(std::string_view)>) {});
    }
    return nullptr;
  }
  std::vector<int32_t> encode(const json& file, std::string_view text) {
    return load(file)->encode(text);
  }

  testing::ScratchFolder folder_;
};

TEST_F(TokenizerJsonFile, EncodesAsGpt2) {
  const auto tokenizer = load(gpt2_file());
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->eos_id(), 262);
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->is_lossless());
  // "lower", " low", " ", " lower", "\n", "123", "4"
  EXPECT_THAT(tokenizer->encode("lower low  lower\n1234"),
              ElementsAre(257, 258, 259, ' ', 259, 258, '\n', 261, '4'));
  EXPECT_THAT(tokenizer->encode(""), IsEmpty());
  EXPECT_EQ(tokenizer->token_bytes(259), " low");
  EXPECT_EQ(tokenizer->token_bytes(262), "");
  EXPECT_EQ(message_of<DataError>([&] { (void)tokenizer->token_bytes(263); }),
            "token id 263 is outside the vocabulary of 263 tokenizer_json tokens");
}

TEST_F(TokenizerJsonFile, EncodesAsLlama3) {
  json file = gpt2_file();
  file["pre_tokenizer"] = sequence("pretokenizers", {split(kLlama3), byte_level(false)});
  // "12" "3" | "4": digits in threes, and merges do not cross them.
  EXPECT_THAT(encode(file, "4123"), ElementsAre('4', 260, '3'));
  // With ignore_merges, "412" is a token though no merge makes it.
  file["model"]["vocab"]["412"] = 263;
  EXPECT_THAT(encode(file, "412"), ElementsAre('4', 260));
  file["model"]["ignore_merges"] = true;
  EXPECT_THAT(encode(file, "412"), ElementsAre(263));
  EXPECT_THAT(encode(file, "4123"), ElementsAre(263, '3'));
}

TEST_F(TokenizerJsonFile, ReadsMergesInBothForms) {
  json file = gpt2_file();
  const auto pairs = encode(file, "lower low 123");
  for (json& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  EXPECT_EQ(encode(file, "lower low 123"), pairs);
  // Older files do not name the model's type.
  file["model"].erase("type");
  EXPECT_EQ(encode(file, "lower low 123"), pairs);
}

TEST_F(TokenizerJsonFile, CutsDigitsAndPunctuation) {
  json file = gpt2_file();
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  file["pre_tokenizer"] = sequence("pretokenizers", {digits, byte_level(false)});
  EXPECT_THAT(encode(file, "a123"), ElementsAre('a', '1', '2', '3'));
  file["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false;
  EXPECT_THAT(encode(file, "a123"), ElementsAre('a', 261));
  file["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Split"},
                                               {"pattern", {{"String", "1."}}},
                                               {"behavior", "MergedWithPrevious"},
                                               {"invert", false}};
  EXPECT_THAT(encode(file, "121.2123"), ElementsAre(260, '1', '.', '2', 261));
  file["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Punctuation"}, {"behavior", "Isolated"}};
  EXPECT_THAT(encode(file, "12$3"), ElementsAre(260, '$', '3'));
}

TEST_F(TokenizerJsonFile, TakesTheNameOfASpecialTokenForText) {
  const auto tokenizer = load(gpt2_file());
  const std::string text = "low<|endoftext|>low";
  const auto ids = tokenizer->encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 262), 0);
  EXPECT_EQ(tokenizer->decode(ids), text);
}

TEST_F(TokenizerJsonFile, MergesNoLettersIntoASpecialToken) {
  json file = gpt2_file();
  file["added_tokens"].push_back(added(257, "low", true));
  EXPECT_THAT(encode(file, "low low"), ElementsAre(256, 'w', ' ', 256, 'w'));
  EXPECT_TRUE(load(file)->is_lossless());
}

TEST_F(TokenizerJsonFile, FindsSpecialTokensInTextsMadeWithThem) {
  const auto tokenizer = load(gpt2_file(), {{"special_tokens", "tokens"}});
  EXPECT_THAT(tokenizer->encode("low<|endoftext|> low"), ElementsAre(257, 262, 259));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("low<|endoftext|> low")), "low low");
  EXPECT_FALSE(tokenizer->is_lossless());
  const auto copy = deserialize_tokenizer("tokenizer_json", tokenizer->serialize());
  EXPECT_THAT(copy->encode("<|endoftext|>"), ElementsAre(262));
}

TEST_F(TokenizerJsonFile, FindsAddedTokensBeforeAnythingIsCut) {
  json file = gpt2_file();
  file["added_tokens"].push_back(added(263, "er low", false));
  file["added_tokens"].push_back(added(264, "    ", false));
  const auto tokenizer = load(file);
  EXPECT_TRUE(tokenizer->is_lossless());
  EXPECT_THAT(tokenizer->encode("lower low"), ElementsAre(257, 263));
  EXPECT_THAT(tokenizer->encode("a     low"), ElementsAre('a', 264, 259));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{257, 263, 264}), "lower low    ");
  file["added_tokens"][1]["lstrip"] = true;
  EXPECT_FALSE(load(file)->is_lossless());
  EXPECT_THAT(encode(file, "a  er low"), ElementsAre('a', 263));
}

TEST_F(TokenizerJsonFile, BringsTextIntoTheNormalFormAskedFor) {
  const std::string decomposed = "e\xCC\x81";  // e and a combining accent
  json file = gpt2_file();
  EXPECT_THAT(encode(file, decomposed), ElementsAre('e', 0xCC, 0x81));
  file["normalizer"] = {{"type", "NFC"}};
  const auto tokenizer = load(file);
  EXPECT_FALSE(tokenizer->is_lossless());
  EXPECT_THAT(tokenizer->encode(decomposed), ElementsAre(0xC3, 0xA9));
  EXPECT_THAT(tokenizer->encode(std::string_view("a\0e\xCC\x81", 5)),
              ElementsAre('a', 0, 0xC3, 0xA9));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("lower \xE6\xBC\xA2")), "lower \xE6\xBC\xA2");
  // A Hangul syllable takes the consonant behind it, but not U+11A7.
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("\xEA\xB0\x80\xE1\x86\xA8")), "\xEA\xB0\x81");
  const std::string apart = "\xEA\xB0\x80\xE1\x86\xA7";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(apart)), apart);
  file["normalizer"] = {{"type", "NFD"}};
  EXPECT_THAT(encode(file, "\xC3\xA9"), ElementsAre('e', 0xCC, 0x81));
  file["normalizer"] = {{"type", "NFKC"}};
  EXPECT_THAT(encode(file, "\xEF\xAC\x81"), ElementsAre('f', 'i'));  // the ligature
  file["normalizer"] = sequence("normalizers", {});
  EXPECT_TRUE(load(file)->is_lossless());
}

TEST_F(TokenizerJsonFile, FindsANormalizedTokenInTheNormalForm) {
  json file = gpt2_file();
  file["normalizer"] = {{"type", "NFC"}};
  json token = added(263, "<e\xCC\x81>", false);
  token["normalized"] = true;
  file["added_tokens"].push_back(token);
  EXPECT_THAT(encode(file, "<\xC3\xA9>"), ElementsAre(263));
  file["added_tokens"][1]["normalized"] = false;
  EXPECT_THAT(encode(file, "<\xC3\xA9>"), ElementsAre('<', 0xC3, 0xA9, '>'));
}

TEST_F(TokenizerJsonFile, GivesEveryTextBack) {
  json file = gpt2_file();
  file["pre_tokenizer"] = sequence("pretokenizers", {split(kLlama3), byte_level(false)});
  for (const auto& tokenizer : {load(gpt2_file()), load(file)}) {
    for (uint64_t sample = 0; sample < 40; ++sample) {
      const std::string text = testing::random_utf8(sample, 300);
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    }
  }
}

TEST_F(TokenizerJsonFile, GivesBytesBackThatAreNoText) {
  const auto tokenizer = load(gpt2_file());
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
  const std::string cut = "low\xE6\xBC low\xFF\xFE";  // half a character between two words
  EXPECT_THAT(tokenizer->encode(cut), ElementsAre(257, 0xE6, 0xBC, 259, 0xFF, 0xFE));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(cut)), cut);
}

TEST_F(TokenizerJsonFile, StreamsWholeCharacters) {
  const auto tokenizer = load(gpt2_file());
  StreamDecoder decoder(*tokenizer);
  std::string text;
  for (const int32_t id : tokenizer->encode("low \xF0\x9F\x98\x80!")) {
    const std::string part = decoder.push(id);
    EXPECT_FALSE(part.size() > 1 && part != " low" && part != "low" && part.size() != 4) << part;
    text += part;
  }
  EXPECT_EQ(text + decoder.flush(), "low \xF0\x9F\x98\x80!");
}

TEST_F(TokenizerJsonFile, SurvivesSerialization) {
  const auto tokenizer = load(gpt2_file());
  const auto copy = deserialize_tokenizer(tokenizer->kind(), tokenizer->serialize());
  EXPECT_EQ(copy->vocab_size(), tokenizer->vocab_size());
  EXPECT_EQ(copy->eos_id(), tokenizer->eos_id());
  EXPECT_EQ(copy->encode("lower low 1234"), tokenizer->encode("lower low 1234"));
  EXPECT_EQ(copy->serialize(), tokenizer->serialize());
  EXPECT_EQ(stored_tokenizer_json(tokenizer->serialize()).file, gpt2_file().dump());
  EXPECT_EQ(message_of<DataError>([] { (void)deserialize_tokenizer("tokenizer_json", "{}"); }),
            "stored tokenizer_json tokenizer: special_tokens: found nothing, allowed text or tokens");
  EXPECT_EQ(message_of<DataError>([] {
              (void)deserialize_tokenizer("tokenizer_json", "{\"special_tokens\":\"text\"}\n[]");
            }),
            "stored tokenizer_json tokenizer: its JSON is no object");
}

TEST_F(TokenizerJsonFile, IsKnownByItsBytesToo) {
  const std::string path = write_file(folder_ / "renamed.bin", gpt2_file().dump());
  for (const Choice& choice : tokenizer_choices()) {
    if (choice.name != "file") continue;
    auto config = choice.make_config();
    testing::set_fields(*config, {{"path", path}});
    const auto tokenizer = make_tokenizer({"file", std::move(config)},
                                          [](FunctionRef<void(std::string_view)>) {});
    EXPECT_EQ(tokenizer->kind(), "tokenizer_json");
    EXPECT_THAT(tokenizer->encode("lower"), ElementsAre(257, 258));
  }
}

TEST_F(TokenizerJsonFile, LearnsItsControlTokensFromWhatStandsBesideIt) {
  json file = gpt2_file();
  file["added_tokens"].push_back(added(263, "<s>", true));
  file["added_tokens"].push_back(added(264, "<end>", true));
  // A template names both; the usual name does not count then.
  file["post_processor"] = sequence(
      "processors", {byte_level(false), json::parse(R"({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "<end>", "type_id": 0}}],
        "special_tokens": {}})")});
  EXPECT_EQ(load(file)->bos_id(), 263);
  EXPECT_EQ(load(file)->eos_id(), 264);
  EXPECT_THAT(encode(file, "low"), ElementsAre(257));  // what it adds is not part of the text

  write_file(folder_ / "tokenizer_config.json",
             R"({"eos_token": {"content": "<|endoftext|>"}, "bos_token": null, "pad_token": "<s>"})");
  EXPECT_EQ(load(file)->eos_id(), 262);
  EXPECT_EQ(load(file)->bos_id(), 263);
  EXPECT_EQ(load(file)->pad_id(), 263);
  EXPECT_EQ(load(file, {{"eos", "<end>"}})->eos_id(), 264);

  const std::string path = (folder_ / "tokenizer.json").string();
  EXPECT_EQ(message_of<DataError>([&] { (void)load(file, {{"eos", "<stop>"}}); }),
            path + ": eos_token: \"<stop>\" is no token of the file");
  EXPECT_EQ(message_of<DataError>([&] { (void)load(file, {{"eos", "lo"}}); }),
            path + ": eos_token: \"lo\" is what texts become, allowed a token of its own");
  write_file(folder_ / "tokenizer_config.json", R"({"eos_token": 5})");
  EXPECT_EQ(message_of<DataError>([&] { (void)load(file); }),
            (folder_ / "tokenizer_config.json").string() +
                ": eos_token: found number, allowed the name of a token");
}

// --- what is refused --------------------------------------------------------------------------------

class TokenizerJsonRefusal : public TokenizerJsonFile {
 protected:
  /// What reading the file says, without its path.
  std::string error_in(const json& file) { return error_in_text(file.dump()); }
  std::string error_in_text(const std::string& text) {
    const std::string path = write_file(folder_ / "tokenizer.json", text);
    const std::string message = message_of<DataError>([&] { (void)load_tokenizer_json(path); });
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    return message.substr(std::min(message.size(), path.size() + 2));
  }
  json file_ = gpt2_file();
};

TEST_F(TokenizerJsonRefusal, OfFilesThatAreNoTokenizer) {
  EXPECT_EQ(error_in_text(""), "is no valid JSON at byte 1");
  EXPECT_EQ(error_in_text("[1]"), "its JSON is no object");
  EXPECT_EQ(error_in_text("{}"), "model: found null, allowed a byte-level BPE model");
  const std::string whole = file_.dump();
  for (const size_t length : {size_t{1}, whole.size() / 3, whole.size() - 1}) {
    EXPECT_THAT(error_in_text(whole.substr(0, length)), ::testing::HasSubstr("is no valid JSON"));
  }
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"model\":";
  EXPECT_EQ(error_in_text(deep), "its JSON nests deeper than 64 levels");
  EXPECT_EQ(error_in_text(R"({"model": {}, "model": {}})"),
            "its JSON gives \"model\" twice in one object");
}

TEST_F(TokenizerJsonRefusal, OfOtherModels) {
  file_["model"]["type"] = "Unigram";
  EXPECT_EQ(error_in(file_), "model: found Unigram, allowed BPE");
  file_ = gpt2_file();
  file_["model"]["end_of_word_suffix"] = "</w>";
  EXPECT_EQ(error_in(file_), "model.end_of_word_suffix: found \"</w>\", allowed none");
  file_ = gpt2_file();
  file_["model"]["dropout"] = 0.1;
  EXPECT_EQ(error_in(file_), "model.dropout: found 0.1, allowed none (encoding is not random)");
  file_ = gpt2_file();
  file_["model"]["vocab"] = {{"\xE2\x96\x81", 0}, {"\xE2\x96\x81the", 1}};
  file_["model"]["merges"] = json::array();
  file_["added_tokens"] = json::array();
  EXPECT_EQ(error_in(file_),
            "model.vocab: no token spells a byte; it is none of a byte-level model");
}

TEST_F(TokenizerJsonRefusal, OfByteFallbackWhereItWouldAct) {
  file_["model"]["byte_fallback"] = true;
  EXPECT_THAT(encode(file_, "\n"), ElementsAre('\n'));  // every byte has a character: it never acts
  file_["model"]["vocab"].erase("\xC4\x8A");            // that of the line break
  EXPECT_EQ(error_in(file_),
            "model.byte_fallback: found true, allowed false (some bytes have no character here)");
  file_["model"]["byte_fallback"] = false;
  EXPECT_FALSE(load(file_)->is_lossless());
  EXPECT_EQ(message_of<DataError>([&] { (void)encode(file_, "a\n"); }),
            "the tokenizer has no token for the byte 0x0A of the text");
}

TEST_F(TokenizerJsonRefusal, OfBadIds) {
  file_["model"]["vocab"]["lo"] = int64_t{1} << 40U;
  EXPECT_EQ(error_in(file_),
            "model.vocab[\"lo\"]: found 1099511627776, allowed a whole number from 0 to 525 (at most "
            "every other id without a token)");
  file_["model"]["vocab"]["lo"] = -1;
  EXPECT_THAT(error_in(file_), ::testing::StartsWith("model.vocab[\"lo\"]: found -1, allowed"));
  file_["model"]["vocab"]["lo"] = 1.5;
  EXPECT_THAT(error_in(file_), ::testing::StartsWith("model.vocab[\"lo\"]: found 1.5, allowed"));
  file_["model"]["vocab"]["lo"] = 257;
  EXPECT_EQ(error_in(file_), "the id 257 is given to both \"lo\" and \"low\"");
  file_ = gpt2_file();
  file_["added_tokens"][0]["id"] = 97;
  EXPECT_EQ(error_in(file_),
            "added_tokens[0]: the id 97 is given to both \"a\" and \"<|endoftext|>\"");
  file_["added_tokens"][0] = added(5, "low", true);
  EXPECT_EQ(error_in(file_), "added_tokens[0]: \"low\" has the id 5, in the vocabulary 257");
  file_["added_tokens"] = json::array({added(300, "<a>", true), added(301, "<a>", true)});
  EXPECT_EQ(error_in(file_), "added_tokens[1]: \"<a>\" is given a second time");
  file_["added_tokens"] = json::array({added(300, "", true)});
  EXPECT_EQ(error_in(file_),
            "added_tokens[0].content: found \"\", allowed a text of 1 to 4096 bytes");
}

TEST_F(TokenizerJsonRefusal, LeavesGapsBetweenIdsAlone) {
  file_["added_tokens"][0]["id"] = 400;
  const auto tokenizer = load(file_);
  EXPECT_EQ(tokenizer->vocab_size(), 401);
  EXPECT_EQ(tokenizer->token_bytes(300), "");
  EXPECT_EQ(tokenizer->eos_id(), 400);
}

TEST_F(TokenizerJsonRefusal, OfBadMerges) {
  file_["model"]["merges"][1] = {"lo", "qq"};
  EXPECT_EQ(error_in(file_), "model.merges[1]: \"qq\" is no token of the vocabulary");
  file_["model"]["merges"][1] = {"lo", "e"};
  EXPECT_EQ(error_in(file_), "model.merges[1]: \"loe\" is no token of the vocabulary");
  file_["model"]["merges"][1] = "lo";
  EXPECT_EQ(error_in(file_),
            "model.merges[1]: found \"lo\", allowed two tokens, as \"a b\" or [\"a\", \"b\"]");
  file_["model"]["merges"][1] = "l o w";
  EXPECT_THAT(error_in(file_), ::testing::StartsWith("model.merges[1]: found \"l o w\""));
  file_["model"]["merges"][1] = {"l", "o", "w"};
  EXPECT_THAT(error_in(file_), ::testing::StartsWith("model.merges[1]: found [\"l\",\"o\",\"w\"]"));
  file_["model"]["merges"] = "l o";
  EXPECT_EQ(error_in(file_), "model.merges: found \"l o\", allowed a list");
}

TEST_F(TokenizerJsonRefusal, OfPartsThatAreNotRead) {
  file_["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_EQ(error_in(file_),
            "normalizer: found Lowercase, allowed NFC, NFD, NFKC, NFKD, a Sequence of them or null");
  file_ = gpt2_file();
  file_["pre_tokenizer"] = nullptr;
  EXPECT_EQ(error_in(file_), "pre_tokenizer: found null, allowed ByteLevel as the last step");
  const json metaspace = {{"type", "Metaspace"}};
  file_["pre_tokenizer"] = sequence("pretokenizers", {metaspace, byte_level(false)});
  EXPECT_EQ(error_in(file_),
            "pre_tokenizer.pretokenizers[0]: found Metaspace, allowed ByteLevel, Split, Digits, "
            "Punctuation or a Sequence of them");
  file_["pre_tokenizer"] = sequence("pretokenizers", {byte_level(false), split("a")});
  EXPECT_EQ(error_in(file_),
            "pre_tokenizer.pretokenizers[1]: found Split, allowed no step behind ByteLevel");
  file_["pre_tokenizer"] = sequence("pretokenizers", std::vector<json>(65, split("a")));
  EXPECT_EQ(error_in(file_),
            "pre_tokenizer.pretokenizers[64]: found Split, allowed at most 64 steps");
  file_["pre_tokenizer"] = sequence("pretokenizers", {split("(a"), byte_level(false)});
  EXPECT_EQ(error_in(file_),
            "pre_tokenizer.pretokenizers[0]: its pattern \"(a\" is no regular expression: missing "
            "closing parenthesis");
  file_["pre_tokenizer"] = sequence("pretokenizers", {split("a", "Glued"), byte_level(false)});
  EXPECT_EQ(error_in(file_),
            "pre_tokenizer.pretokenizers[0].behavior: found \"Glued\", allowed Isolated, Removed, "
            "MergedWithPrevious, MergedWithNext or Contiguous");
  file_ = gpt2_file();
  file_["post_processor"] = {{"type", "BertProcessing"}};
  EXPECT_EQ(error_in(file_),
            "post_processor: found BertProcessing, allowed ByteLevel, TemplateProcessing, a Sequence "
            "of them or null");
  file_ = gpt2_file();
  file_["decoder"] = {{"type", "WordPiece"}};
  EXPECT_EQ(error_in(file_),
            "decoder: found WordPiece, allowed ByteLevel, Fuse, a Sequence of them or null");
  file_ = gpt2_file();
  file_["added_tokens"][0]["single_word"] = true;
  EXPECT_EQ(error_in(file_),
            "added_tokens[0].single_word: found true, allowed false (a token is found within words "
            "too)");
}

TEST_F(TokenizerJsonRefusal, EndsInOneSentenceWhateverIsChanged) {
  const std::string whole = file_.dump();
  const RandomKey key{.purpose = RandomPurpose::test};
  const std::string path = (folder_ / "tokenizer.json").string();
  for (uint64_t sample = 0; sample < 150; ++sample) {
    std::string text = whole;
    for (uint64_t i = 0; i < 3; ++i) {
      // Most bytes are vocabulary: change what stands before and behind it.
      const uint64_t at = uniform_below(key, sample, 2 * i, 900);
      text[at < 450 ? at : text.size() - (at - 449)] =
          static_cast<char>(uniform_below(key, sample, 2 * i + 1, 128));
    }
    write_file(path, text);
    try {
      (void)load_tokenizer_json(path)->encode("lower low 123\n");
    } catch (const DataError& error) {
      EXPECT_NE(std::string_view(error.what()), "");
    }
  }
}

}  // namespace
}  // namespace sluice
