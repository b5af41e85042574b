// A file beside a `.def` list that has no line in it would be compiled and never found. (The
// reverse, a line without its file, fails at link.)

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/source_tree.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::lines_of;
using testing::read_source_tree;
using testing::SourceFile;

/// A list and the folder whose every .cpp must stand in it, except the named helpers.
struct DefList {
  std::string_view list;
  std::string_view folder;
  std::vector<std::string_view> helpers;
};

const std::vector<DefList>& def_lists() {
  static const std::vector<DefList> table{
      {"autograd/ops/ops.def", "autograd/ops/", {"key_chunks", "table"}},
      {"layers/mixers.def", "layers/mixers/", {}},
      {"layers/ffns.def", "layers/ffns/", {}},
      {"layers/experts.def", "layers/experts/", {}},
      {"layers/adapters.def", "layers/adapters/", {"low_rank", "routed_low_rank"}},
      {"layers/depths.def", "layers/depths/", {}},
      {"layers/routers.def",
       "layers/routers/",
       {"choose", "cluster_domains", "initial_logits", "least_squares", "mixed_scores",
        "query_norm", "unit_rows"}},
      {"balance/methods.def", "balance/methods/", {}},
      {"optim/optimizers.def", "optim/optimizers/", {}},
      {"optim/schedules.def", "optim/schedules/", {}},
      {"data/sources.def", "data/sources/", {}},
      {"train/transforms/upcycling.def", "train/transforms/upcycling/", {}},
      {"train/transforms/pruning.def", "train/transforms/pruning/", {}},
      {"train/transforms/transforming.def", "train/transforms/transforming/", {}},
      {"data/tokenizers.def",
       "data/tokenizers/",
       {"added_tokens", "byte_characters", "byte_level_model", "byte_pairs", "llama2c", "normal_form",
        "pre_tokenizer", "regex", "sentencepiece_model", "sentencepiece_trainer"}},
      {"train/interchange/families.def", "train/interchange/families/", {}},
      {"train/metrics/sinks.def", "train/metrics/sinks/", {}},
      {"train/cli/commands.def",
       "train/cli/",
       {"checkpoint_flags", "command", "console_reporter", "format", "recipe_flags"}},
  };
  return table;
}

bool is_word_character(char c) {
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// True when `word` stands on a line of the list that is no comment.
bool has_line(std::string_view list, std::string_view word) {
  for (std::string_view line : lines_of(list)) {
    line = line.substr(0, line.find("//"));
    for (size_t at = line.find(word); at != std::string_view::npos; at = line.find(word, at + 1)) {
      const size_t end = at + word.size();
      if ((at == 0 || !is_word_character(line[at - 1])) &&
          (end == line.size() || !is_word_character(line[end]))) {
        return true;
      }
    }
  }
  return false;
}

/// The sources of the list's folder that have no line, as sentences.
std::vector<std::string> unlisted(const DefList& def, const std::vector<SourceFile>& files) {
  const auto list = std::find_if(files.begin(), files.end(),
                                 [&](const SourceFile& file) { return file.path == def.list; });
  std::vector<std::string> faults;
  for (const SourceFile& file : files) {
    const std::filesystem::path path(file.path);
    const std::string stem = path.stem().string();
    if (!file.path.starts_with(def.folder) || path.extension() != ".cpp" ||
        std::find(def.helpers.begin(), def.helpers.end(), stem) != def.helpers.end()) {
      continue;
    }
    if (list == files.end() || !has_line(list->text, stem)) {
      faults.push_back(fmt::format("{} has no line in {}", file.path, def.list));
    }
  }
  return faults;
}

TEST(DefLists, NameEveryFileOfTheirFolder) {
  const auto files = read_source_tree(SLUICE_SOURCE_DIR, {".cpp", ".def"});
  std::vector<std::string> faults;
  for (const DefList& def : def_lists()) {
    for (std::string& fault : unlisted(def, files)) faults.push_back(std::move(fault));
  }
  EXPECT_THAT(faults, IsEmpty()) << fmt::format("{}", fmt::join(faults, "\n"));
}

TEST(DefLists, ReportAFileWithoutALine) {
  const DefList def{"balance/methods.def", "balance/methods/", {"shared"}};
  const std::vector<SourceFile> files{
      {"balance/methods.def", "SLUICE_BALANCER(bip_plus)\n// bip is explained elsewhere\n"},
      {"balance/methods/bip.cpp", ""},
      {"balance/methods/bip_plus.cpp", ""},
      {"balance/methods/shared.cpp", ""},
  };
  EXPECT_THAT(unlisted(def, files),
              ElementsAre("balance/methods/bip.cpp has no line in balance/methods.def"));
}

TEST(DefLists, FindAFamilyByItsFileStem) {
  const DefList def{"autograd/ops/ops.def", "autograd/ops/", {}};
  const std::vector<SourceFile> files{
      {"autograd/ops/ops.def", "SLUICE_OP(add, elementwise)\nSLUICE_OP(multiply, elementwise)\n"},
      {"autograd/ops/elementwise.cpp", ""},
  };
  EXPECT_THAT(unlisted(def, files), IsEmpty());
}

TEST(DefLists, ReportAFolderWithoutItsList) {
  const DefList def{"data/sources.def", "data/sources/", {}};
  EXPECT_THAT(unlisted(def, {{"data/sources/text.cpp", ""}}),
              ElementsAre(HasSubstr("no line in data/sources.def")));
}

}  // namespace
}  // namespace sluice
