#include "data/tokenizers/byte_characters.h"

#include <cstdint>

namespace sluice {
namespace {

constexpr uint32_t kFirstFree = 0x100;
constexpr size_t kCharacters = 0x144;  // the last one is U+0143

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/// Code point of each byte's character.
constexpr std::array<uint32_t, 256> kCodes = [] {
  std::array<uint32_t, 256> codes{};
  uint32_t next = kFirstFree;
  for (uint32_t byte = 0; byte < 256; ++byte) codes[byte] = stands_for_itself(byte) ? byte : next++;
  return codes;
}();

/// The byte of each code point, -1 without.
constexpr std::array<int, kCharacters> kBytes = [] {
  std::array<int, kCharacters> bytes{};
  bytes.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte) bytes[kCodes[byte]] = static_cast<int>(byte);
  return bytes;
}();

std::string utf8_of(uint32_t code) {
  if (code < 0x80U) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const std::array<std::string, 256> characters = [] {
    std::array<std::string, 256> result;
    for (size_t byte = 0; byte < 256; ++byte) result[byte] = utf8_of(kCodes[byte]);
    return result;
  }();
  return characters;
}

std::string spelled_bytes(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) token += byte_characters()[static_cast<unsigned char>(byte)];
  return token;
}

std::optional<std::string> unspelled_bytes(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    uint32_t code = static_cast<unsigned char>(token[i++]);
    if (code >= 0x80U) {
      // Characters of two bytes are all there are.
      if (code < 0xC2U || code > 0xC5U || i == token.size()) return std::nullopt;
      code = ((code & 0x1FU) << 6U) | (static_cast<unsigned char>(token[i++]) & 0x3FU);
    }
    if (code >= kCharacters || kBytes[code] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytes[code]);
  }
  return bytes;
}

}  // namespace sluice
