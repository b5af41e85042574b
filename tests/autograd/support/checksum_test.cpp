#include "autograd/support/checksum.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "autograd/support/file.h"

namespace sluice {
namespace {

TEST(Xxh64, OfNothingIsThePublishedConstant) { EXPECT_EQ(xxh64({}), 0xEF46DB3751D8E999ull); }

TEST(Xxh64, OfPiecesEqualsTheWhole) {
  const std::string text = "the quick brown fox jumps over the lazy dog, twice and then some more";
  Xxh64 pieces;
  pieces.update(bytes_of(text).first(7));
  pieces.update({});
  pieces.update(bytes_of(text).subspan(7));
  EXPECT_EQ(pieces.digest(), xxh64(bytes_of(text)));
}

TEST(Xxh64, OfALargeBlockEqualsThatOfItsStream) {
  constexpr size_t kLarge = size_t{4} << 20;
  std::vector<std::byte> bytes(kLarge + 70'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 4096);
  for (const size_t size : {kLarge - 1, kLarge, kLarge + 1, kLarge + 16'384, kLarge + 16'383,
                            kLarge + 49'999, bytes.size()}) {
    const auto part = std::span<const std::byte>(bytes).first(size);
    Xxh64 stream;
    stream.update(part);
    EXPECT_EQ(xxh64(part), stream.digest()) << size;
  }
}

TEST(Xxh64, DependsOnEveryByte) {
  std::string text(100, 'x');
  const uint64_t original = xxh64(bytes_of(text));
  for (char& byte : text) {
    byte = static_cast<char>(byte ^ 1);
    EXPECT_NE(xxh64(bytes_of(text)), original);
    byte = static_cast<char>(byte ^ 1);
  }
}

TEST(Crc32c, MatchesTheCheckValueOfTheCatalogue) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283u);
}

TEST(Crc32c, MatchesTheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8A9136AAu);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\xff'))), 0x62A8AB43u);
}

}  // namespace
}  // namespace sluice
