#include "train/yaml_scalar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

YamlNode parse(const std::string& value) {
  return parse_yaml("key: " + value, "r.yaml", "/").root.find("key")->value;
}

double read(const std::string& value) {
  double number = 0.0;
  EXPECT_EQ(read_number(parse(value), {}, "", number), "");
  return number;
}

TEST(FormatNumber, AlwaysShowsAPoint) {
  EXPECT_EQ(format_number(1.0), "1.0");
  EXPECT_EQ(format_number(-0.001), "-0.001");
  EXPECT_EQ(format_number(1e-5), "1.0e-05");
  EXPECT_EQ(format_number(1.5e300), "1.5e+300");
  EXPECT_EQ(format_number(0.0), "0.0");
}

TEST(FormatNumber, ReadsBackToTheSameBits) {
  const RandomKey key{7, RandomPurpose::test};
  for (uint64_t i = 0; i < 2000; ++i) {
    const uint64_t bits = random_u64(key, 0, i);
    double value = 0.0;
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isfinite(value)) continue;
    const double again = read(format_number(value));
    EXPECT_EQ(std::memcmp(&value, &again, sizeof value), 0) << format_number(value);
  }
  EXPECT_TRUE(std::signbit(read(format_number(-0.0))));
  EXPECT_EQ(read(format_number(std::numeric_limits<double>::denorm_min())),
            std::numeric_limits<double>::denorm_min());
}

TEST(FormatNumber, RefusesWhatNoRecipeCanHold) {
  EXPECT_THROW((void)format_number(std::nan("")), InternalError);
  EXPECT_THROW((void)format_number(std::numeric_limits<double>::infinity()), InternalError);
}

TEST(FormatText, IsPlainOnlyWhereThatIsSafe) {
  EXPECT_EQ(format_text("rms_norm"), "rms_norm");
  EXPECT_EQ(format_text("(AE)x6"), "(AE)x6");
  EXPECT_EQ(format_text("/data/a.txt"), "/data/a.txt");
  EXPECT_EQ(format_text(""), "\"\"");
  EXPECT_EQ(format_text("No"), "\"No\"");
  EXPECT_EQ(format_text("12"), "\"12\"");
  EXPECT_EQ(format_text("a: b"), "\"a: b\"");
  EXPECT_EQ(format_text("a\tb\n\"\\\x01"), "\"a\\tb\\n\\\"\\\\\\x01\"");
}

TEST(FormatText, ReadsBackToTheSameText) {
  const std::vector<std::string> pieces = {"a",
                                           " ",
                                           "\n",
                                           "\r",
                                           "\t",
                                           "\"",
                                           "'",
                                           ":",
                                           "#",
                                           "\\",
                                           "\xC3\xA9",
                                           "\xE2\x80\xA8",
                                           "\x7F",
                                           "-",
                                           "%",
                                           "\xC2\x85",
                                           "\xF0\x9F\x99\x82",
                                           "null"};
  const RandomKey key{8, RandomPurpose::test};
  for (uint64_t sample = 0; sample < 2000; ++sample) {
    std::string text;
    const uint64_t length = uniform_below(key, sample, 0, 9);
    for (uint64_t i = 1; i <= length; ++i)
      text += pieces[uniform_below(key, sample, i, pieces.size())];
    std::string again;
    EXPECT_EQ(read_text(parse(format_text(text)), again), "");
    EXPECT_EQ(again, text) << format_text(text);
  }
}

TEST(ReadNumber, TakesTheFormsOfYaml) {
  EXPECT_EQ(read("+1"), 1.0);
  EXPECT_EQ(read(".5"), 0.5);
  EXPECT_EQ(read("1."), 1.0);
  EXPECT_EQ(read("-1.0e-3"), -1e-3);
}

TEST(ReadNumber, RefusesLookAlikes) {
  for (const char* text :
       {"1_000", "0x10", "1e", "--1", "+-1", "1 2", "1,5", "inf", "-nan", "e5"}) {
    double number = 0.0;
    EXPECT_NE(read_number(parse(text), {}, "", number), "") << text;
  }
}

TEST(DescribeRange, NamesTheBounds) {
  EXPECT_EQ(describe_range(NumberRange{}), "");
  EXPECT_EQ(describe_range(NumberRange{.min = 0, .max = 1}), "0 to 1");
  EXPECT_EQ(describe_range(NumberRange{.min = 0, .max = 1, .exclusive_min = true}),
            "more than 0 and at most 1");
  EXPECT_EQ(describe_range(NumberRange{.min = 0.5}), "at least 0.5");
  EXPECT_EQ(describe_range(NumberRange{.max = 2}), "at most 2");
  EXPECT_EQ(describe_range(IntegerRange{.max = 2}), "at most 2");
}

}  // namespace
}  // namespace sluice
