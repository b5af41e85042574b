// Holds every #include of the tree to the table of who may include whom, and every third-party
// header to the room that owns it. The tables below are the rule; CMake links the rooms by the same
// rows.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>
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

/// What the files under `folder` may include of the tree: folders (ending in '/') and single files.
/// The longest matching `folder` decides; tests and bench are right of everything and have no row.
struct Row {
  std::string_view folder;
  std::vector<std::string_view> may_include;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table{
      {"autograd/support/", {"autograd/support/"}},
      {"autograd/core/", {"autograd/support/", "autograd/core/"}},
      {"autograd/kernels/", {"autograd/support/", "autograd/core/dtype.h", "autograd/kernels/"}},
      {"autograd/ops/",
       {"autograd/support/", "autograd/core/", "autograd/kernels/", "autograd/ops/"}},
      {"layers/", {"autograd/support/", "autograd/core/", "autograd/ops/", "layers/"}},
      {"balance/",
       {"autograd/support/", "autograd/core/", "autograd/kernels/", "autograd/ops/",
        "layers/routing.h", "balance/"}},
      {"optim/", {"autograd/support/", "autograd/core/", "autograd/kernels/", "optim/"}},
      {"data/",
       {"autograd/support/", "autograd/core/tensor.h", "autograd/core/state.h",
        "autograd/core/communicator.h", "data/"}},
      {"train/",
       {"autograd/support/", "autograd/core/", "autograd/ops/", "layers/", "balance/", "optim/",
        "data/", "train/"}},
      // A transformation rewrites whole tensors, so it may call kernels too.
      {"train/transforms/",
       {"autograd/support/", "autograd/core/", "autograd/kernels/", "autograd/ops/", "layers/",
        "balance/", "optim/", "data/", "train/"}},
  };
  return table;
}

/// Where the headers that begin with `header` may be included, besides tests and bench.
struct LibraryRule {
  std::string_view header;
  std::vector<std::string_view> places;
};

const std::vector<LibraryRule>& library_rules() {
  static const std::vector<LibraryRule> table{
      {"omp.h", {"autograd/support/parallel.cpp"}},
      {"tbb/", {"autograd/support/parallel.cpp"}},
      {"oneapi/", {"autograd/support/parallel.cpp"}},
      {"hdf5.h", {"autograd/support/hdf5_library.h"}},
      {"H5", {"autograd/support/hdf5_library.h"}},
      {"xxhash.h", {"autograd/support/", "data/", "train/"}},
      {"Eigen/", {"autograd/kernels/"}},
      {"unsupported/Eigen/", {}},
      {"sentencepiece", {"data/tokenizers/"}},
      {"pcre2.h", {"data/tokenizers/"}},
      {"utf8proc.h", {"data/tokenizers/"}},
      {"nlohmann/", {"data/", "train/"}},
      {"yaml-cpp/", {"train/"}},
      {"CLI/", {"train/"}},
      {"spdlog/", {"train/"}},
      {"mpi.h", {"train/mpi_communicator.cpp"}},
      {"gtest/", {}},
      {"gmock/", {}},
      {"benchmark/", {}},
  };
  return table;
}

struct Include {
  std::string target;
  bool is_quoted = false;
  size_t line = 0;
};

std::vector<Include> includes_of(std::string_view text) {
  std::vector<Include> includes;
  size_t number = 0;
  for (std::string_view line : lines_of(text)) {
    ++number;
    const auto skip_spaces = [&] {
      line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    };
    skip_spaces();
    if (!line.starts_with('#')) continue;
    line.remove_prefix(1);
    skip_spaces();
    if (!line.starts_with("include")) continue;
    line.remove_prefix(std::string_view("include").size());
    skip_spaces();
    if (line.empty() || (line[0] != '"' && line[0] != '<')) continue;
    const bool is_quoted = line[0] == '"';
    const size_t end = line.find(is_quoted ? '"' : '>', 1);
    if (end == std::string_view::npos) continue;
    includes.push_back({std::string(line.substr(1, end - 1)), is_quoted, number});
  }
  return includes;
}

bool begins_with_any(std::string_view text, const std::vector<std::string_view>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return text.starts_with(prefix); });
}

const Row* row_of(std::string_view path) {
  const Row* best = nullptr;
  for (const Row& row : rows()) {
    if (path.starts_with(row.folder) &&
        (best == nullptr || row.folder.size() > best->folder.size())) {
      best = &row;
    }
  }
  return best;
}

/// One sentence saying what is wrong with the include, or nothing.
std::optional<std::string> fault_of(std::string_view path, const Include& include,
                                    const std::set<std::string>& known) {
  const bool is_ours = known.contains(include.target);
  if (include.is_quoted && !is_ours) {
    return fmt::format(
        "\"{}\" is no file of the tree; write the path from the root, and <> for a "
        "library's header",
        include.target);
  }
  const Row* row = row_of(path);
  if (row == nullptr) return std::nullopt;
  if (is_ours) {
    if (begins_with_any(include.target, row->may_include)) return std::nullopt;
    return fmt::format("{} may not include {}; allowed: {}", row->folder, include.target,
                       fmt::join(row->may_include, ", "));
  }
  for (const LibraryRule& rule : library_rules()) {
    if (!include.target.starts_with(rule.header) || begins_with_any(path, rule.places)) continue;
    return fmt::format(
        "<{}> belongs to {}", include.target,
        rule.places.empty() ? "tests and bench" : fmt::format("{}", fmt::join(rule.places, ", ")));
  }
  return std::nullopt;
}

/// Every fault of the files, as "path:line: sentence".
std::vector<std::string> faults_of(const std::vector<SourceFile>& files) {
  std::set<std::string> known;
  for (const SourceFile& file : files) known.insert(file.path);
  std::vector<std::string> faults;
  for (const SourceFile& file : files) {
    for (const Include& include : includes_of(file.text)) {
      if (const auto fault = fault_of(file.path, include, known)) {
        faults.push_back(fmt::format("{}:{}: {}", file.path, include.line, *fault));
      }
    }
  }
  return faults;
}

std::vector<std::string> faults_of_including(std::string path, const std::string& line) {
  return faults_of({{std::move(path), "#pragma once\n" + line + "\n"},
                    {"layers/model.h", ""},
                    {"layers/routing.h", ""},
                    {"autograd/core/dtype.h", ""},
                    {"autograd/core/tensor.h", ""},
                    {"autograd/kernels/gemm.h", ""}});
}

TEST(Layering, HoldsForEveryIncludeOfTheTree) {
  const auto files = read_source_tree(SLUICE_SOURCE_DIR, {".h", ".cpp", ".def"});
  ASSERT_GT(files.size(), 20u) << "the tree was not found under " SLUICE_SOURCE_DIR;
  const auto faults = faults_of(files);
  EXPECT_THAT(faults, IsEmpty()) << fmt::format("{}", fmt::join(faults, "\n"));
}

TEST(Layering, ReportsAStepUphillWithFileAndLine) {
  EXPECT_THAT(faults_of_including("optim/clip.h", "#include \"layers/model.h\""),
              ElementsAre(HasSubstr("optim/clip.h:2: optim/ may not include layers/model.h")));
}

TEST(Layering, LetsBalanceSeeOnlyTheRoutingHeaderOfLayers) {
  EXPECT_THAT(faults_of_including("balance/load.h", "#include \"layers/routing.h\""), IsEmpty());
  EXPECT_EQ(faults_of_including("balance/load.h", "#include \"layers/model.h\"").size(), 1u);
}

TEST(Layering, LetsKernelsSeeOnlyTheDtypesOfCore) {
  const std::string path = "autograd/kernels/softmax.h";
  EXPECT_THAT(faults_of_including(path, "#include \"autograd/core/dtype.h\""), IsEmpty());
  EXPECT_EQ(faults_of_including(path, "#include \"autograd/core/tensor.h\"").size(), 1u);
}

TEST(Layering, LetsOfTrainOnlyTransformationsCallKernels) {
  const std::string line = "#include \"autograd/kernels/gemm.h\"";
  EXPECT_THAT(faults_of_including("train/transforms/merge.cpp", line), IsEmpty());
  EXPECT_EQ(faults_of_including("train/step.cpp", line).size(), 1u);
}

TEST(Layering, KeepsEachLibraryInItsRoom) {
  EXPECT_EQ(faults_of_including("autograd/kernels/gemm.cpp", "#include <omp.h>").size(), 1u);
  EXPECT_EQ(faults_of_including("data/loader.cpp", "#include <tbb/task_group.h>").size(), 1u);
  EXPECT_EQ(faults_of_including("train/checkpoint/hdf5.cpp", "#include <hdf5.h>").size(), 1u);
  EXPECT_EQ(faults_of_including("data/source.h", "#include <yaml-cpp/yaml.h>").size(), 1u);
  EXPECT_EQ(faults_of_including("autograd/ops/matmul.cpp", "#include <Eigen/Dense>").size(), 1u);
  EXPECT_THAT(faults_of_including("autograd/support/hdf5_library.h", "#include <hdf5.h>"),
              IsEmpty());
  EXPECT_THAT(faults_of_including("tests/gemm_test.cpp", "#include <Eigen/Dense>"), IsEmpty());
}

TEST(Layering, WantsIncludesFromTheRepositoryRoot) {
  EXPECT_EQ(faults_of_including("layers/linear.h", "#include \"model.h\"").size(), 1u);
  EXPECT_THAT(faults_of_including("layers/linear.h", "#  include  \"layers/model.h\"  // why"),
              IsEmpty());
}

}  // namespace
}  // namespace sluice
