#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/data/field_setter.h"
#include "tests/data/support.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;

constexpr auto no_text = [](FunctionRef<void(std::string_view)>) {};

const Choice& choice_of(std::string_view name) {
  for (const Choice& choice : tokenizer_choices()) {
    if (choice.name == name) return choice;
  }
  throw InternalError(fmt::format("no tokenizer {}", name));
}

std::unique_ptr<Tokenizer> make_bytes() {
  return make_tokenizer({"bytes", choice_of("bytes").make_config()}, no_text);
}

TEST(Tokenizers, AreOfferedByName) {
  std::vector<std::string_view> names;
  for (const Choice& choice : tokenizer_choices()) names.push_back(choice.name);
  EXPECT_THAT(names, ElementsAre("sentencepiece", "bytes", "tokenizer_json", "file"));
}

TEST(Tokenizers, SuggestTheNearestNameForAnUnknownOne) {
  EXPECT_THAT(message_of<ConfigError>([] {
                (void)make_tokenizer({"byte", nullptr}, no_text);
              }),
              HasSubstr("unknown tokenizer \"byte\"; did you mean \"bytes\"?"));
}

TEST(Tokenizers, RefuseAStoredKindTheyDoNotKnow) {
  EXPECT_EQ(message_of<DataError>([] { (void)deserialize_tokenizer("runes", ""); }),
            "stored tokenizer is of kind \"runes\", which this version does not know");
  EXPECT_EQ(message_of<DataError>([] { (void)deserialize_tokenizer("bytes", "xyz"); }),
            "stored bytes tokenizer: found \"xyz\", expected \"bytes 257\"");
}

TEST(BytesTokenizer, MapsEveryByteToItsValueAndEndsDocumentsWith256) {
  const auto tokenizer = make_bytes();
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->eos_id(), 256);
  EXPECT_THAT(tokenizer->encode("A\n\xFF"), ElementsAre(65, 10, 255));
  EXPECT_EQ(tokenizer->token_bytes(256), "");
}

TEST(BytesTokenizer, GivesEveryByteBack) {
  const auto tokenizer = make_bytes();
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
}

TEST(BytesTokenizer, SurvivesSerialization) {
  const auto copy = deserialize_tokenizer("bytes", make_bytes()->serialize());
  EXPECT_EQ(copy->vocab_size(), 257);
}

TEST(BytesTokenizer, RefusesIdsOutsideItsVocabulary) {
  EXPECT_EQ(message_of<DataError>([] { (void)make_bytes()->token_bytes(257); }),
            "token id 257 is outside the vocabulary of 257 bytes tokens");
  EXPECT_EQ(message_of<DataError>([] { (void)make_bytes()->token_bytes(-1); }),
            "token id -1 is outside the vocabulary of 257 bytes tokens");
}

TEST(BytesTokenizer, CountsOneBytePerTokenAndNoneForTheEnd) {
  const auto lengths = token_byte_lengths(*make_bytes());
  ASSERT_EQ(lengths.size(), 257);
  EXPECT_EQ(lengths[0], 1);
  EXPECT_EQ(lengths[255], 1);
  EXPECT_EQ(lengths[256], 0);
}

TEST(StreamDecoder, HoldsACharacterBackUntilItIsComplete) {
  const auto tokenizer = make_bytes();
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push('x'), "x");
  EXPECT_EQ(decoder.push(0xE6), "");
  EXPECT_EQ(decoder.push(0xBC), "");
  EXPECT_EQ(decoder.push(0xA2), "\xE6\xBC\xA2");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, ReplacesWhatCanNeverBecomeACharacter) {
  const auto tokenizer = make_bytes();
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(0xFF), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.push(0xE6), "");
  EXPECT_EQ(decoder.push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.flush(), "\xEF\xBF\xBD");
}

TEST(FileTokenizer, ReportsAMissingOrForeignFile) {
  testing::ScratchFolder folder;
  const auto make_from = [](const std::string& path) {
    auto config = choice_of("file").make_config();
    testing::set_fields(*config, {{"path", path}});
    return make_tokenizer({"file", std::move(config)}, no_text);
  };
  const std::string missing = folder / "none.model";
  EXPECT_EQ(message_of<ConfigError>([&] { (void)make_from(missing); }),
            missing + ": file not found");
  const std::string foreign = testing::write_file(folder / "x.model", "hello");
  EXPECT_EQ(message_of<DataError>([&] { (void)make_from(foreign); }),
            foreign + ": not a SentencePiece model (5 bytes)");
}

}  // namespace
}  // namespace sluice
