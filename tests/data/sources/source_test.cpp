#include "data/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "autograd/support/error.h"
#include "tests/data/field_setter.h"
#include "tests/data/support.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::make_config;
using testing::message_of;

TEST(SourceConfig, FindsItsTypeByTheExtension) {
  const auto type_of = [](const std::string& path) {
    return std::string(make_config<SourceConfig>({{"path", path}}).resolved_type());
  };
  EXPECT_EQ(type_of("a/b.txt"), "text");
  EXPECT_EQ(type_of("a/folder"), "text");
  EXPECT_EQ(type_of("a/chat.JSONL"), "jsonl");
  EXPECT_EQ(type_of("x.ndjson"), "jsonl");
  for (const std::string path : {"x.bin", "x.npy", "x.h5", "x.hdf5"}) {
    EXPECT_EQ(type_of(path), "tokens") << path;
  }
}

TEST(SourceConfig, NamesItsDomainAfterTheFile) {
  EXPECT_EQ(make_config<SourceConfig>({{"path", "text/prose.en.txt"}}).resolved_domain(),
            "prose.en");
  EXPECT_EQ(make_config<SourceConfig>({{"path", "text/folder/"}}).resolved_domain(), "folder");
  EXPECT_EQ(make_config<SourceConfig>({{"path", "a.txt"}, {"domain", "x"}}).resolved_domain(), "x");
  EXPECT_EQ(make_config<SourceConfig>({{"type", "synthetic"}}).resolved_domain(), "synthetic");
}

TEST(SourceConfig, ReadsTheOptionsOfItsTypeOnly) {
  const auto keys = [](SourceConfig config) {
    testing::KeyCollector collector;
    config.fields(collector);
    return collector.keys;
  };
  SourceConfig text;
  text.path = "a.txt";
  EXPECT_THAT(keys(text), ElementsAre("path", "domain", "modality", "weight", "type", "separator"));
  SourceConfig tokens;
  tokens.path = "a.bin";
  EXPECT_THAT(keys(tokens), ElementsAre("path", "domain", "modality", "weight", "type", "raw_type",
                                        "separator_id"));
}

TEST(SourceConfig, ShowsEveryOptionOnceWhenItIsDescribed) {
  testing::KeyCollector collector;
  SourceConfig config;
  config.fields(collector);
  const std::set<std::string> distinct(collector.keys.begin(), collector.keys.end());
  EXPECT_EQ(distinct.size(), collector.keys.size());
  EXPECT_TRUE(distinct.contains("separator"));
  EXPECT_TRUE(distinct.contains("alphabet"));
}

TEST(SourceConfig, RefusesADomainThatIsNoUtf8) {
  SourceConfig config;
  config.path = "caf\xe9.txt";
  EXPECT_THAT(config.check(),
              ::testing::StartsWith("domain: found the name \"caf\uFFFD\", after the "
                                    "file, allowed UTF-8 text (byte 3 is none)"));
  config.domain = "caf\u00e9";
  EXPECT_EQ(config.check(), "");
  config.domain = "\xff";
  EXPECT_THAT(config.check(), ::testing::StartsWith("domain: found the name \"\uFFFD\", allowed"));
}

TEST(SourceConfig, ChecksItsPath) {
  EXPECT_EQ(make_config<SourceConfig>({{"type", "text"}}).check(),
            "path: missing; every source but a synthetic one reads a file or folder");
  EXPECT_EQ(make_config<SourceConfig>({{"type", "synthetic"}, {"path", "x"}}).check(),
            "path: not read by a source of type synthetic");
  EXPECT_EQ(make_config<SourceConfig>({{"path", "x.txt"}}).check(), "");
}

TEST(SourceConfig, ChecksTheOptionsOfItsType) {
  EXPECT_EQ(make_config<SourceConfig>({{"path", "x.jsonl"}, {"prompt_key", "q"}}).check(),
            "response_key: missing; prompt_key and response_key go together");
  EXPECT_EQ(make_config<SourceConfig>({{"path", "x.jsonl"}, {"text_key", ""}}).check(),
            "text_key: found \"\", allowed a key");
  EXPECT_EQ(make_config<SourceConfig>({{"path", "x.txt"}, {"separator", "a\nb"}}).check(),
            "separator: found a line break, allowed one line");
  EXPECT_EQ(make_config<SourceConfig>(
                {{"type", "synthetic"}, {"min_length", int64_t{9}}, {"max_length", int64_t{8}}})
                .check(),
            "min_length: found 9, allowed 1 to 8 (max_length)");
}

TEST(Sources, ReportAMissingFileAsAMistakeInTheRecipe) {
  for (const std::string path : {"/nowhere/a.txt", "/nowhere/a.jsonl", "/nowhere/a.bin"}) {
    const auto config = make_config<SourceConfig>({{"path", path}});
    EXPECT_EQ(message_of<ConfigError>([&] { (void)make_source(config); }),
              path + ": file or folder not found");
  }
}

}  // namespace
}  // namespace sluice
