#include "train/yaml_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::ScratchFolder;

// Writes a file and returns its path.
std::string write(const ScratchFolder& folder, const std::string& name, const std::string& text) {
  const std::string path = folder / name;
  std::ofstream(path) << text;
  return path;
}

std::string problems_of(const std::string& text) {
  return parse_yaml(text, "r.yaml", "/").problems.to_string();
}

// A document as one line, to compare whole trees at a glance.
std::string show(const YamlNode& node) {
  std::string text;
  switch (node.kind) {
    case YamlNode::Kind::null:
      return "~";
    case YamlNode::Kind::scalar:
      return node.is_quoted ? "'" + node.text + "'" : node.text;
    case YamlNode::Kind::list:
      for (const YamlNode& item : node.items) text += (text.empty() ? "" : " ") + show(item);
      return "[" + text + "]";
    case YamlNode::Kind::map:
      for (const YamlEntry& entry : node.entries) {
        text += (text.empty() ? "" : " ") + entry.key + ":" + show(entry.value);
      }
      return "{" + text + "}";
  }
  return text;
}

std::string overlaid(const std::string& base, const std::string& above) {
  YamlNode node = parse_yaml(base, "base", "/").root;
  overlay(node, parse_yaml(above, "above", "/").root);
  return show(node);
}

std::string with_sets(const std::string& base, const std::vector<std::string>& sets,
                      std::string* problems = nullptr) {
  const ScratchFolder folder;
  const std::string path = write(folder, "r.yaml", base);
  const YamlDocument document = load_documents({{path}, sets});
  if (problems != nullptr) *problems = document.problems.to_string();
  return show(document.root);
}

TEST(YamlDocument, KeepsWhereEverythingStands) {
  const YamlNode root =
      parse_yaml("# comment\na: 1\nb:\n  - x\n  - {c: 'y'}\n", "r.yaml", "/").root;
  EXPECT_EQ(show(root), "{a:1 b:[x {c:'y'}]}");
  EXPECT_EQ(root.find("a")->where.to_string(), "r.yaml:2:1");
  EXPECT_EQ(root.find("a")->value.where.to_string(), "r.yaml:2:4");
  const YamlNode& item = root.find("b")->value.items[1];
  EXPECT_EQ(item.where.to_string(), "r.yaml:5:5");
  EXPECT_EQ(item.find("c")->value.where.to_string(), "r.yaml:5:9");
}

TEST(YamlDocument, CountsColumnsInCharacters) {
  const YamlNode root = parse_yaml("{\xC3\xA9\xC3\xA9: \xE2\x82\xAC, b: 1}", "r.yaml", "/").root;
  EXPECT_EQ(root.find("b")->where.to_string(), "r.yaml:1:9");
}

TEST(YamlDocument, ReadsByteOrderMarksAndWindowsLineEnds) {
  const YamlNode root = parse_yaml("\xEF\xBB\xBFkey: 1\r\nb: 2\r\n", "r.yaml", "/").root;
  EXPECT_EQ(show(root), "{key:1 b:2}");
  EXPECT_EQ(root.find("key")->value.where.to_string(), "r.yaml:1:6");
  EXPECT_EQ(root.find("b")->where.to_string(), "r.yaml:2:1");
}

TEST(YamlDocument, TellsQuotedTextFromPlain) {
  EXPECT_EQ(show(parse_yaml("a: [1, '1', \"1\", !!str 1, none, ~, null]", "", "/").root),
            "{a:[1 '1' '1' '1' none ~ ~]}");
}

TEST(YamlDocument, ReadsEveryEscapeAsUtf8) {
  EXPECT_EQ(show(parse_yaml(R"(a: "\_\N\xe9\u20AC\n")", "", "/").root),
            "{a:'\xC2\xA0\xC2\x85\xC3\xA9\xE2\x82\xAC\n'}");
}

TEST(YamlDocument, NamesDuplicateKeysWithBothPlaces) {
  EXPECT_EQ(problems_of("a: {x: 1}\nb:\n  - c: 1\n    c: 2\na: 3\n"),
            "r.yaml:4:5: b.0.c: given twice; first at r.yaml:3:5\n"
            "r.yaml:5:1: a: given twice; first at r.yaml:1:1");
}

TEST(YamlDocument, WantsAMappingAtTheTop) {
  const char* empty = "r.yaml:1:1: holds no keys; a recipe is a mapping, such as \"seed: 1\"";
  EXPECT_EQ(problems_of(""), empty);
  EXPECT_EQ(problems_of("# only a comment\n"), empty);
  EXPECT_EQ(problems_of("- a\n"),
            "r.yaml:1:1: found a list at the top, allowed a mapping, such as \"seed: 1\"");
  EXPECT_EQ(problems_of("hello"),
            "r.yaml:1:1: found \"hello\" at the top, allowed a mapping, such as \"seed: 1\"");
}

TEST(YamlDocument, LocatesSyntaxErrors) {
  EXPECT_EQ(problems_of("a: 1\nb: [1, 2\n"),
            "r.yaml:3:1: not a valid recipe in YAML: end of sequence flow not found");
  EXPECT_EQ(problems_of("a: 1\n b: 2\n"),
            "r.yaml:2:3: not a valid recipe in YAML: illegal map value");
  EXPECT_EQ(problems_of("a: *b\n"),
            "r.yaml:1:4: not a valid recipe in YAML: the referenced anchor is not defined");
}

TEST(YamlDocument, RefusesBytesThatAreNoText) {
  EXPECT_EQ(problems_of("a: 1\nb: x\xFFy\n"), "r.yaml:2:5: byte 0xff is not valid UTF-8");
  EXPECT_EQ(problems_of("a: \xC0\xAF\n"), "r.yaml:1:4: byte 0xc0 is not valid UTF-8");  // overlong
  EXPECT_EQ(problems_of("a: \xED\xA0\x80\n"),
            "r.yaml:1:4: byte 0xed is not valid UTF-8");                              // surrogate
  EXPECT_EQ(problems_of("a: \xE2\x82"), "r.yaml:1:4: byte 0xe2 is not valid UTF-8");  // cut short
  EXPECT_EQ(problems_of(std::string("a: \0", 4)), "r.yaml:1:4: byte 0x00 is a control character");
}

TEST(YamlDocument, RefusesWhatARecipeHasNoUseFor) {
  EXPECT_EQ(
      problems_of("a: 1\n---\nb: 2\n"),
      "r.yaml:2:1: not a valid recipe in YAML: a recipe is one YAML document, and a second one "
      "starts here");
  EXPECT_EQ(problems_of("a: !secret x\n"),
            "r.yaml:1:4: not a valid recipe in YAML: the tag !secret means nothing in a recipe");
  EXPECT_EQ(problems_of("[a, b]: 1\n"),
            "r.yaml:1:1: not a valid recipe in YAML: a key is a word, not a list");
  EXPECT_EQ(problems_of("a: &x [*x]\n"),
            "r.yaml:1:8: not a valid recipe in YAML: an alias stands inside what it names");
}

TEST(YamlDocument, LimitsNestingAndExpansion) {
  EXPECT_THAT(problems_of("a: " + std::string(100, '[') + std::string(100, ']')),
              ::testing::HasSubstr("nested deeper than 64 levels"));
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 8; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += "*a" + std::to_string(i - 1) + (j < 9 ? ", " : "]\n");
  }
  EXPECT_THAT(problems_of(bomb), ::testing::HasSubstr("more than 100000 values"));
}

TEST(YamlOverlay, MergesMapsAndReplacesEverythingElse) {
  EXPECT_EQ(overlaid("{a: {x: 1, y: 2}, b: [1, 2], c: 3}", "{a: {y: 5, z: 6}, b: [9], d: 4}"),
            "{a:{x:1 y:5 z:6} b:[9] c:3 d:4}");
  EXPECT_EQ(overlaid("{a: {x: 1}}", "{a: 5}"), "{a:5}");
  EXPECT_EQ(overlaid("{a: 5}", "{a: {x: 1}}"), "{a:{x:1}}");
}

TEST(YamlOverlay, ReplacesAUnionWhoseTypeChanges) {
  EXPECT_EQ(overlaid("{b: {type: bip, iterations: 4}}", "{b: {type: none}}"), "{b:{type:none}}");
  EXPECT_EQ(overlaid("{b: {type: bip, iterations: 4}}", "{b: {type: bip, warm: 1}}"),
            "{b:{type:bip iterations:4 warm:1}}");
  EXPECT_EQ(overlaid("{b: {type: bip, iterations: 4}}", "{b: {iterations: 8}}"),
            "{b:{type:bip iterations:8}}");
}

TEST(YamlOverlay, TakesAKeyAway) {
  EXPECT_EQ(overlaid("{a: {b: 1, c: {d: 2}}, e: 3}", "{a: {c: ~}}"), "{a:{b:1} e:3}");
  EXPECT_EQ(with_sets("{a: {b: 1, c: {d: 2}}, e: 3}", {"a.c=~"}), "{a:{b:1} e:3}");
}

TEST(YamlOverlay, LocatesAValueInTheFileThatGaveIt) {
  YamlNode base = parse_yaml("a: 1\nb: 2\n", "base.yaml", "/").root;
  overlay(base, parse_yaml("# mine\nb: 3\n", "mine.yaml", "/").root);
  EXPECT_EQ(base.find("a")->value.where.to_string(), "base.yaml:1:4");
  EXPECT_EQ(base.find("b")->value.where.to_string(), "mine.yaml:2:4");
  EXPECT_EQ(base.find("b")->where.to_string(), "mine.yaml:2:1");
}

TEST(SetOverride, ReachesAnyDepth) {
  EXPECT_EQ(with_sets("{a: {b: 1}}", {"a.b=2", "a.c.d=x", "e=[1, 2]"}),
            "{a:{b:2 c:{d:x}} e:[1 2]}");
  EXPECT_EQ(with_sets("{a: 1}", {"a.b=2"}), "{a:{b:2}}");
  EXPECT_EQ(with_sets("{a: 1}", {"a=x=y"}), "{a:x=y}");
}

TEST(SetOverride, ChangesAUnionByItsTypeAlone) {
  EXPECT_EQ(with_sets("{b: {type: bip, iterations: 4}}", {"b.type=none"}), "{b:{type:none}}");
  EXPECT_EQ(with_sets("{b: {type: bip, iterations: 4}}", {"b.type=bip"}),
            "{b:{type:bip iterations:4}}");
}

TEST(SetOverride, NamesItemsByNumber) {
  EXPECT_EQ(with_sets("{s: [{p: a}, {p: b}]}", {"s.1.p=c"}), "{s:[{p:a} {p:c}]}");
  std::string problems;
  (void)with_sets("{s: [{p: a}]}", {"s.1.p=c"}, &problems);
  EXPECT_EQ(problems, "--set s.1.p: \"1\" is no item of a list of 1; items are counted from 0");
}

TEST(SetOverride, SaysWhatIsWrongWithIt) {
  std::string problems;
  (void)with_sets("{a: 1}", {"a", "=3", "a..b=1", "a=[1", "b=2"}, &problems);
  EXPECT_EQ(problems,
            "--set a: a setting is written key=value, such as train.steps=100, or key=~ to take it away\n"
            "--set : a setting is written key=value, such as train.steps=100, or key=~ to take it away\n"
            "--set a..b: a setting is written key=value, such as train.steps=100, or key=~ to take it away\n"
            "--set a: not a valid recipe in YAML: end of sequence flow not found");
}

TEST(SetOverride, StartsPathsAtTheCurrentFolder) {
  const ScratchFolder folder;
  const std::string path = write(folder, "r.yaml", "a: x");
  const YamlDocument document = load_documents({{path}, {"b=y"}});
  EXPECT_EQ(document.root.find("a")->value.where.source->folder,
            std::filesystem::path(path).parent_path().string());
  EXPECT_EQ(document.root.find("b")->value.where.source->folder,
            std::filesystem::current_path().string());
}

TEST(LoadDocuments, LetsLaterFilesWin) {
  const ScratchFolder folder;
  const std::string base = write(folder, "base.yaml", "a: 1\nb: {c: 2}\n");
  const std::string mine = write(folder, "mine.yaml", "b: {d: 3}\na: 4\n");
  EXPECT_EQ(show(load_documents({{base, mine}, {}}).root), "{a:4 b:{c:2 d:3}}");
}

TEST(LoadDocuments, NamesAFileItCannotRead) {
  const ScratchFolder folder;
  const std::string missing = folder / "none.yaml";
  const YamlDocument document = load_documents({{missing, folder.path().string()}, {}});
  EXPECT_TRUE(document.is_broken);
  EXPECT_EQ(document.problems.to_string(),
            missing + ": cannot be opened: No such file or directory\n" + folder.path().string() +
                ": is a folder, not a recipe file");
}

TEST(LoadDocuments, ReportsTheProblemsOfAllFiles) {
  const ScratchFolder folder;
  const std::string one = write(folder, "one.yaml", "a: [");
  const std::string two = write(folder, "two.yaml", "- b");
  EXPECT_EQ(load_documents({{one, two}, {}}).problems.size(), 2U);
}

}  // namespace
}  // namespace sluice
