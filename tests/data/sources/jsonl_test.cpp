#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/data/read_source.h"
#include "tests/data/support.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::message_of;
using testing::texts_of;

class JsonlSource : public ::testing::Test {
 protected:
  std::vector<std::string> read(std::string_view content, testing::FieldValues options = {}) {
    path_ = testing::write_file(folder_ / "a.jsonl", content);
    options["path"] = path_;
    return texts_of(options);
  }
  std::string error(std::string_view content, const testing::FieldValues& options = {}) {
    const std::string message = message_of<DataError>([&] { (void)read(content, options); });
    EXPECT_TRUE(message.starts_with(path_)) << message;
    return message.substr(std::min(path_.size(), message.size()));
  }
  testing::ScratchFolder folder_;
  std::string path_;
};

TEST_F(JsonlSource, ReadsOneTextPerLineAndSkipsBlankLines) {
  EXPECT_THAT(read("{\"text\": \"a\\nb\"}\n\n  \r\n{\"n\": 1, \"text\": \"\\u00e9\"}"),
              ElementsAre("a\nb", "\xC3\xA9"));
}

TEST_F(JsonlSource, TakesAnotherKey) {
  EXPECT_THAT(read("{\"body\": \"a\"}\n", {{"text_key", "body"}}), ElementsAre("a"));
}

TEST_F(JsonlSource, ReadsPromptAndResponse) {
  EXPECT_THAT(
      read("{\"q\": \"1+1?\", \"a\": \"2\"}\n", {{"prompt_key", "q"}, {"response_key", "a"}}),
      ElementsAre("1+1?|2"));
}

TEST_F(JsonlSource, NamesTheLineOfWhatItCannotRead) {
  EXPECT_EQ(error("{\"text\": \"a\"}\n{\"text\": }\n"),
            ":2: not valid JSON at byte 10 of the line");
  EXPECT_EQ(error("{\"text\": \"a\n"), ":1: not valid JSON at byte 12 of the line");
  EXPECT_EQ(error("\n[1]\n"), ":2: found an array, expected an object");
  EXPECT_EQ(error("7\n"), ":1: found a number, expected an object");
  EXPECT_EQ(error("{\"txt\": \"a\"}\n"), ":1: no key \"text\"");
  EXPECT_EQ(error("{\"text\": 3}\n"), ":1: \"text\" is of type number, expected a string");
  EXPECT_EQ(error("{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n"),
            ":2: invalid UTF-8 at byte 24 of the file");
  EXPECT_EQ(error("{\"q\": \"a\"}\n", {{"prompt_key", "q"}, {"response_key", "a"}}),
            ":1: no key \"a\"");
}

}  // namespace
}  // namespace sluice
