#include "data/tokenizers/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/data/support.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::message_of;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern);
  RegexScratch scratch;
  std::vector<std::string> found;
  regex.for_each_match(text, scratch, [&](size_t begin, size_t end) {
    found.emplace_back(text.substr(begin, end - begin));
  });
  return found;
}

std::string refusal(std::string_view pattern) {
  return message_of<DataError>([&] { (void)Regex(pattern); });
}

TEST(Regex, KnowsUnicode) {
  EXPECT_THAT(matches(R"(\p{L}+)", "ab\xC3\xA9 \xE6\xBC\xA2x 1"),
              ElementsAre("ab\xC3\xA9", "\xE6\xBC\xA2x"));
  EXPECT_THAT(matches(R"(\p{N})", "4\xC2\xBD\xD9\xA3"), ElementsAre("4", "\xC2\xBD", "\xD9\xA3"));
  EXPECT_THAT(matches(R"((?i:'s|'RE))", "'S're's"), ElementsAre("'S", "'re", "'s"));
}

TEST(Regex, CountsAsWhiteSpaceWhatUnicodeDoes) {
  // A no-break space and an ideographic one, but not U+180E nor a zero-width space.
  EXPECT_THAT(matches(R"(\s)", "a\xC2\xA0\xE3\x80\x80\xE1\xA0\x8E\xE2\x80\x8B"),
              ElementsAre("\xC2\xA0", "\xE3\x80\x80"));
  EXPECT_THAT(matches(R"(\S)", " \xE1\xA0\x8E\n"), ElementsAre("\xE1\xA0\x8E"));
  EXPECT_THAT(matches(R"([^\sa]+)", "a \xE1\xA0\x8E\xC2\x85"), ElementsAre("\xE1\xA0\x8E"));
}

TEST(Regex, ReadsPossessiveQuantifiersAndLookaround) {
  EXPECT_THAT(matches(R"([^\r\n\p{L}\p{N}]?+\p{L}+)", " ab!cd"), ElementsAre(" ab", "!cd"));
  EXPECT_THAT(matches(R"(\s+(?!\S))", "  a   "), ElementsAre(" ", "   "));
  EXPECT_THAT(matches(R"(^a$)", "a\nb\na"), ElementsAre("a", "a"));
  EXPECT_THAT(matches(R"(\u0041\x{42}+\v?)", "ABB\x0B"), ElementsAre("ABB\x0B"));
}

TEST(Regex, FindsEmptyMatchesOncePerPlace) {
  const Regex regex(R"((?=\p{Lu}))");
  RegexScratch scratch;
  std::vector<size_t> places;
  regex.for_each_match("aBc\xC3\x89", scratch, [&](size_t begin, size_t end) {
    EXPECT_EQ(begin, end);
    places.push_back(begin);
  });
  EXPECT_THAT(places, ElementsAre(1, 3));
  EXPECT_THAT(matches("x*", "axb"), ElementsAre("", "x", ""));
  EXPECT_THAT(matches("a", ""), IsEmpty());
}

TEST(Regex, RefusesWhatMeansAnotherThingElsewhere) {
  EXPECT_EQ(refusal(R"(a\w)"),
            "its pattern \"a\\w\" has \\w at byte 1, which is not read here");
  EXPECT_THAT(refusal(R"(\bx)"), HasSubstr("has \\b at byte 0"));
  EXPECT_THAT(refusal(R"([\S])"), HasSubstr("has \\S at byte 1"));
  EXPECT_THAT(refusal(R"([a[bc]])"), HasSubstr("has a class inside a class at byte 2"));
  EXPECT_THAT(refusal(R"([a-z&&[^b]])"), HasSubstr("has the intersection && at byte 4"));
  EXPECT_THAT(refusal(R"(\p{N}{1,3}+)"), HasSubstr("has }+ at byte 5"));
  EXPECT_THAT(refusal(R"(a{,3})"), HasSubstr("has {, at byte 1"));
  EXPECT_THAT(refusal("(?m:a)"), HasSubstr("has (?m: at byte 0"));
  EXPECT_THAT(refusal("(*COMMIT)"), HasSubstr("has (* at byte 0"));
  EXPECT_THAT(refusal("a\\"), HasSubstr("has a backslash at its end"));
}

TEST(Regex, RefusesWhatIsNoExpression) {
  EXPECT_EQ(refusal("(a"), "its pattern \"(a\" is no regular expression: missing closing parenthesis");
  EXPECT_THAT(refusal(R"(\p{Runes})"), HasSubstr("is no regular expression: "));
  EXPECT_THAT(refusal(std::string(20'000, 'a')), HasSubstr("has 20000 bytes, allowed at most 16384"));
  EXPECT_THAT(refusal("(?:(?:(?:a{1000}){1000}){1000})"), HasSubstr("is no regular expression: "));
}

TEST(Regex, GivesUpOnAPatternThatTakesForever) {
  const std::string text(40, 'a');
  EXPECT_THAT(message_of<DataError>([&] { (void)matches(R"((?:a+a+)+\p{Lu})", text); }),
              HasSubstr("fails on a text of 40 bytes: match limit exceeded"));
}

}  // namespace
}  // namespace sluice
