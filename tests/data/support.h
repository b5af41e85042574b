#pragma once
// Helpers that several tests of the data room share.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "autograd/support/rng.h"

namespace sluice::testing {

/// The message of the ErrorType that `body` throws; fails the test when it throws nothing or
/// something else.
template <class ErrorType, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const ErrorType& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "an error of another type: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

inline void append_utf8(std::string& text, uint32_t codepoint) {
  const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (codepoint < 0x80) {
    put(codepoint);
  } else if (codepoint < 0x800) {
    put(0xC0 | (codepoint >> 6));
    put(0x80 | (codepoint & 0x3F));
  } else if (codepoint < 0x10000) {
    put(0xE0 | (codepoint >> 12));
    put(0x80 | ((codepoint >> 6) & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  } else {
    put(0xF0 | (codepoint >> 18));
    put(0x80 | ((codepoint >> 12) & 0x3F));
    put(0x80 | ((codepoint >> 6) & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  }
}

/// `length` valid characters: white space and ASCII, the space symbol's neighbourhood, any code
/// point.
inline std::string random_utf8(uint64_t sample, uint64_t length) {
  const RandomKey key{.purpose = RandomPurpose::test};
  std::string text;
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t kind = uniform_below(key, sample, 2 * i, 4);
    const auto below = [&](uint32_t bound) {
      return static_cast<uint32_t>(uniform_below(key, sample, 2 * i + 1, bound));
    };
    if (kind == 0) text += " \n\t\r"[below(4)];
    if (kind == 1) append_utf8(text, below(0x80));
    if (kind == 2) append_utf8(text, 0x2570 + below(0x30));
    if (kind == 3) {
      const uint32_t codepoint = below(0x110000 - 0x800);
      append_utf8(text, codepoint < 0xD800 ? codepoint : codepoint + 0x800);
    }
  }
  return text;
}

inline std::string write_file(const std::filesystem::path& path, std::string_view content) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

}  // namespace sluice::testing
