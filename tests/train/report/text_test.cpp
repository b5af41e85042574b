#include "train/report/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace sluice::report {
namespace {

TEST(ReportText, EscapesWhatMeansSomethingInHtml) {
  EXPECT_EQ(escaped("<script>alert('x' & \"y\")</script>"),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;");
  EXPECT_EQ(escaped("größer ≥ 3 🙂\n"), "größer ≥ 3 🙂\n");
}

TEST(ReportText, ReplacesBytesThatAreNoText) {
  EXPECT_EQ(escaped("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(escaped("\xC0\xAF"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(escaped("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // surrogate
  EXPECT_EQ(escaped("\xE2\x82"), "\uFFFD\uFFFD");            // cut off
  EXPECT_EQ(escaped(std::string_view("a\0b\x1B", 4)), "a\uFFFDb\uFFFD");
}

TEST(ReportText, KeepsAScriptElementClosedIn) {
  const std::string name = "</script><script>alert(1)//\\\"";
  const std::string text = script_safe(json_text(name));
  EXPECT_EQ(text.find('<'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(text).get<std::string>(), name);
  EXPECT_EQ(nlohmann::json::parse(json_text("a\xFF")).get<std::string>(), "a\uFFFD");
}

TEST(ReportText, WritesNumbersAsAReaderWantsThem) {
  EXPECT_EQ(readable(2.71344), "2.713");
  EXPECT_EQ(readable(0.5), "0.5");
  EXPECT_EQ(readable(0.00031), "0.00031");
  EXPECT_EQ(readable(3.14e-7), "3.14e-07");
  EXPECT_EQ(readable(12345678.4), "12,345,678");
  EXPECT_EQ(readable(0.0), "0");
  EXPECT_EQ(readable(-1.5), "-1.5");
  EXPECT_EQ(readable(100.0), "100");
  EXPECT_EQ(readable(std::nan("")), "–");
}

TEST(ReportText, WritesCoordinatesShortly) {
  EXPECT_EQ(coordinate(12.0), "12");
  EXPECT_EQ(coordinate(12.3456), "12.35");
  EXPECT_EQ(coordinate(-0.001), "0");
  EXPECT_EQ(json_number(2.5), "2.5");
  EXPECT_EQ(json_number(std::numeric_limits<double>::infinity()), "null");
}

}  // namespace
}  // namespace sluice::report
