#include "data/utf8.h"

#include <gtest/gtest.h>

#include "tests/data/support.h"

namespace sluice {
namespace {

TEST(Utf8, AcceptsEveryCodePointAndNoSurrogate) {
  for (uint32_t codepoint = 0; codepoint < 0x110000; codepoint += 7) {
    std::string text;
    testing::append_utf8(text, codepoint);
    const bool is_surrogate = codepoint >= 0xD800 && codepoint < 0xE000;
    ASSERT_EQ(find_invalid_utf8(text).has_value(), is_surrogate) << codepoint;
  }
}

TEST(Utf8, NamesTheOffsetOfTheFirstInvalidSequence) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("plain text, longer than eight"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("0123456789\x80"), 10);
  EXPECT_EQ(find_invalid_utf8("ab\xC3"), 2);
  EXPECT_EQ(find_invalid_utf8("\xC0\x80"), 0);           // overlong
  EXPECT_EQ(find_invalid_utf8("a\xE0\x9F\xBF"), 1);      // overlong
  EXPECT_EQ(find_invalid_utf8("a\xF4\x90\x80\x80"), 1);  // above U+10FFFF
}

TEST(Utf8, FindsTheCharacterThatTheEndCutsOff) {
  EXPECT_EQ(complete_utf8_prefix(""), 0);
  EXPECT_EQ(complete_utf8_prefix("ab"), 2);
  EXPECT_EQ(complete_utf8_prefix("a\xC3"), 1);
  EXPECT_EQ(complete_utf8_prefix("a\xC3\xA9"), 3);
  EXPECT_EQ(complete_utf8_prefix("a\xF0\x9F\x91"), 1);
  EXPECT_EQ(complete_utf8_prefix("a\xF0\x9F\x91\xA9"), 5);
}

TEST(Utf8, DoesNotHoldBackWhatCanNeverBecomeValid) {
  EXPECT_EQ(complete_utf8_prefix("a\xFF"), 2);
  EXPECT_EQ(complete_utf8_prefix("\x80\x80\x80\x80"), 4);
  EXPECT_EQ(complete_utf8_prefix("\xE0\x80"), 2);
}

TEST(Utf8, ReplacesEachInvalidPartOnce) {
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b\xE6\xBC"),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
  EXPECT_EQ(replace_invalid_utf8("\xE6\xBC\xA2"), "\xE6\xBC\xA2");
}

}  // namespace
}  // namespace sluice
