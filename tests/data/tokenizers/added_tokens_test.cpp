#include "data/tokenizers/added_tokens.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// "5:<a>" for a token, "text" for text.
std::vector<std::string> parts(const AddedTokens& tokens, std::string_view text) {
  std::vector<std::string> found;
  tokens.for_each_part(text, [&](std::string_view part, std::optional<int32_t> id) {
    found.push_back(id ? fmt::format("{}:{}", *id, part) : std::string(part));
  });
  return found;
}

TEST(AddedTokens, AreFoundLeftmostAndLongest) {
  const AddedTokens tokens({{"<a>", 5}, {"<a><b>", 6}, {"<b>", 7}, {"  ", 8}, {"    ", 9}});
  EXPECT_THAT(parts(tokens, "x<a>y<a><b><b>"), ElementsAre("x", "5:<a>", "y", "6:<a><b>", "7:<b>"));
  EXPECT_THAT(parts(tokens, "<a><"), ElementsAre("5:<a>", "<"));
  EXPECT_THAT(parts(tokens, "       z"), ElementsAre("9:    ", "8:  ", " z"));
  EXPECT_THAT(parts(tokens, ""), IsEmpty());
  EXPECT_THAT(parts(AddedTokens(), "<a>"), ElementsAre("<a>"));
}

TEST(AddedTokens, TakeTheWhiteSpaceTheyAreMadeTo) {
  const AddedTokens tokens({{.content = "<m>", .id = 1, .takes_space_before = true},
                            {.content = "<n>", .id = 2, .takes_space_behind = true}});
  EXPECT_THAT(parts(tokens, "a \xE3\x80\x80<m> b"), ElementsAre("a", "1: \xE3\x80\x80<m>", " b"));
  EXPECT_THAT(parts(tokens, "a <n>\n\xC2\xA0 b"), ElementsAre("a ", "2:<n>\n\xC2\xA0 ", "b"));
  // What one has taken, the next cannot.
  EXPECT_THAT(parts(tokens, "<n>  <m>"), ElementsAre("2:<n>  ", "1:<m>"));
  EXPECT_FALSE(tokens.is_lossless());
  EXPECT_TRUE(AddedTokens({{"<a>", 5}}).is_lossless());
}

}  // namespace
}  // namespace sluice
