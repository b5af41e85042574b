#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/data/read_source.h"
#include "tests/data/support.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::message_of;
using testing::texts_of;

class TextSource : public ::testing::Test {
 protected:
  std::vector<std::string> read(std::string_view content, testing::FieldValues options = {}) {
    options["path"] = testing::write_file(folder_ / "a.txt", content);
    return texts_of(options);
  }
  testing::ScratchFolder folder_;
};

TEST_F(TextSource, EndsADocumentAtALineThatHoldsOnlyTheSeparator) {
  EXPECT_THAT(read("one\ntwo\n<|endoftext|>\nthree"), ElementsAre("one\ntwo\n", "three"));
}

TEST_F(TextSource, KeepsASeparatorInsideALineAsText) {
  EXPECT_THAT(read("a <|endoftext|>\n<|endoftext|> b\n"),
              ElementsAre("a <|endoftext|>\n<|endoftext|> b\n"));
}

TEST_F(TextSource, DropsEmptyDocuments) {
  EXPECT_THAT(read("<|endoftext|>\n<|endoftext|>\na\n<|endoftext|>\n"), ElementsAre("a\n"));
  EXPECT_THAT(read(""), IsEmpty());
}

TEST_F(TextSource, AcceptsSeparatorsInFilesWithCarriageReturns) {
  EXPECT_THAT(read("a\r\n<|endoftext|>\r\nb\r\n"), ElementsAre("a\r\n", "b\r\n"));
}

TEST_F(TextSource, TakesAnotherSeparatorOrNone) {
  EXPECT_THAT(read("a\n---\nb\n", {{"separator", "---"}}), ElementsAre("a\n", "b\n"));
  EXPECT_THAT(read("a\n<|endoftext|>\nb\n", {{"separator", ""}}),
              ElementsAre("a\n<|endoftext|>\nb\n"));
}

TEST_F(TextSource, ReadsAFolderInTheOrderOfItsNamesWithoutHiddenFiles) {
  testing::write_file(folder_ / "b/two.txt", "2");
  testing::write_file(folder_ / "b/.hidden", "no");
  testing::write_file(folder_ / ".git/config", "no");
  testing::write_file(folder_ / "a/one.md", "1");
  testing::write_file(folder_ / "c.txt", "3");
  EXPECT_THAT(texts_of({{"path", folder_.path().string()}}), ElementsAre("1", "2", "3"));
}

TEST_F(TextSource, NamesTheFileAndByteOfInvalidUtf8) {
  const std::string path = testing::write_file(folder_ / "a.txt", "abc\xC3(");
  EXPECT_EQ(message_of<DataError>([&] {
              (void)texts_of({{"path", path}});
            }),
            path + ": invalid UTF-8 at byte 3");
}

TEST_F(TextSource, FingerprintFollowsContentAndOptionsButNotTheName) {
  const auto hash = [&](const std::string& name, const std::string& content,
                        const std::string& separator) {
    const std::string path = testing::write_file(folder_ / name, content);
    return testing::fingerprint_of({{"path", path}, {"separator", separator}});
  };
  const uint64_t first = hash("x.txt", "one", "-");
  EXPECT_EQ(hash("y.txt", "one", "-"), first);
  EXPECT_NE(hash("x.txt", "One", "-"), first);
  EXPECT_NE(hash("x.txt", "one", "+"), first);
}

}  // namespace
}  // namespace sluice
