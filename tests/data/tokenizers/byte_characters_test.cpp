#include "data/tokenizers/byte_characters.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

TEST(ByteCharacters, AreThoseOfGpt2) {
  EXPECT_EQ(byte_characters()['A'], "A");
  EXPECT_EQ(byte_characters()[' '], "\xC4\xA0");   // U+0120
  EXPECT_EQ(byte_characters()['\n'], "\xC4\x8A");  // U+010A
  EXPECT_EQ(byte_characters()[0], "\xC4\x80");     // U+0100
  EXPECT_EQ(byte_characters()[0x7F], "\xC4\xA1");  // U+0121
  EXPECT_EQ(byte_characters()[0xAD], "\xC5\x83");  // U+0143, the last
  EXPECT_EQ(byte_characters()[0xE9], "\xC3\xA9");  // itself
}

TEST(ByteCharacters, AreDifferentAndLeadBack) {
  std::set<std::string> seen;
  std::string all;
  for (size_t byte = 0; byte < 256; ++byte) {
    seen.insert(byte_characters()[byte]);
    all += static_cast<char>(byte);
  }
  EXPECT_EQ(seen.size(), 256u);
  EXPECT_EQ(unspelled_bytes(spelled_bytes(all)), all);
  EXPECT_EQ(unspelled_bytes(""), "");
}

TEST(ByteCharacters, AreNoOthers) {
  EXPECT_EQ(unspelled_bytes("a b"), std::nullopt);           // a space stands for none
  EXPECT_EQ(unspelled_bytes("\xC2\xAD"), std::nullopt);      // nor does U+00AD
  EXPECT_EQ(unspelled_bytes("\xC5\x84"), std::nullopt);      // U+0144
  EXPECT_EQ(unspelled_bytes("\xE2\x96\x81"), std::nullopt);  // U+2581
  EXPECT_EQ(unspelled_bytes("\xC4"), std::nullopt);
}

}  // namespace
}  // namespace sluice
