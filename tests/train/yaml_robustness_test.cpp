// Whatever the bytes are, reading a recipe ends with a config or with located problems.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "tests/train/sample_config.h"
#include "train/yaml_reader.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

using testing::kFullSample;
using testing::SampleConfig;

// Reads `text`; what reads cleanly must also write and read again.
void expect_config_or_problems(const std::string& text) {
  SampleConfig config;
  try {
    read_or_throw(config, parse_yaml(text, "r.yaml", "/recipes"));
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), ::testing::StartsWith("r.yaml:")) << text;
    return;
  }
  SampleConfig again;
  const std::string written = write_yaml(config);
  EXPECT_EQ(read_into(again, parse_yaml(written, "w.yaml", "/recipes")).to_string(), "") << written;
}

TEST(YamlRobustness, SurvivesTruncationAtEveryByte) {
  const std::string text = kFullSample;
  for (size_t length = 0; length < text.size(); ++length) {
    expect_config_or_problems(text.substr(0, length));
  }
}

TEST(YamlRobustness, SurvivesRandomBytes) {
  const RandomKey key{1, RandomPurpose::test};
  for (uint64_t sample = 0; sample < 300; ++sample) {
    std::string text = kFullSample;
    const uint64_t changes = 1 + uniform_below(key, sample, 0, 4);
    for (uint64_t i = 0; i < changes; ++i) {
      const auto place = uniform_below(key, sample, 3 * i + 1, text.size());
      text[place] = static_cast<char>(uniform_below(key, sample, 3 * i + 2, 256));
    }
    expect_config_or_problems(text);
  }
}

TEST(YamlRobustness, SurvivesRandomSyntax) {
  const std::vector<std::string> pieces = {
      "\n", "  ",    "- ",    ": ",   "[",      "]",     "{",         "}",  ",",         "&a ",
      "*a", "!",     "|",     ">",    "\"",     "'",     "#",         "? ", "%",         "@",
      "`",  "---\n", "...\n", "<<: ", "type: ", "model", "balance: ", "\t", "seed: 1\n", "~"};
  const RandomKey key{2, RandomPurpose::test};
  for (uint64_t sample = 0; sample < 1500; ++sample) {
    std::string text;
    const uint64_t length = 1 + uniform_below(key, sample, 0, 25);
    for (uint64_t i = 1; i <= length; ++i)
      text += pieces[uniform_below(key, sample, i, pieces.size())];
    expect_config_or_problems(text);
  }
}

TEST(YamlRobustness, SurvivesMovedPieces) {
  const std::string original = kFullSample;
  const RandomKey key{3, RandomPurpose::test};
  for (uint64_t sample = 0; sample < 300; ++sample) {
    std::string text = original;
    const auto from = uniform_below(key, sample, 0, text.size());
    const std::string piece = original.substr(from, uniform_below(key, sample, 1, 40));
    text.erase(from, piece.size() * uniform_below(key, sample, 2, 2));
    text.insert(uniform_below(key, sample, 3, text.size() + 1), piece);
    expect_config_or_problems(text);
  }
}

std::string repeated(size_t count, const std::string& piece) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += piece;
  return text;
}

TEST(YamlRobustness, SurvivesDeepAndLongText) {
  expect_config_or_problems(repeated(50000, "["));
  expect_config_or_problems(repeated(20000, "{a: "));
  expect_config_or_problems(repeated(1000000, "x"));
  std::string stairs;
  for (size_t level = 0; level < 500; ++level) stairs += repeated(level, " ") + "a:\n";
  expect_config_or_problems(stairs);
}

}  // namespace
}  // namespace sluice
