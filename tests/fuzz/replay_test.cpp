// The corpus of the fuzz targets, read once more by each: every file, and what is left of it when it is cut
// short, is read or refused. Files named learnt_NN are, of what ten minutes of fuzzing kept, those that together
// reach most for their size.

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <set>
#include <string>

#include "autograd/support/file.h"
#include "tests/fuzz/target.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  void (*read)(std::string_view);
};

constexpr auto kTargets = std::to_array<Target>({
#define SLUICE_FUZZ(name) {#name, testing::fuzz_##name},
#include "tests/fuzz/targets.def"
#undef SLUICE_FUZZ
});

const fs::path& corpus() {
  static const fs::path path = fs::path(SLUICE_SOURCE_DIR) / "tests" / "fuzz" / "corpus";
  return path;
}

class FuzzCorpus : public ::testing::TestWithParam<Target> {
 protected:
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(corpus() / GetParam().name)) {
      result.push_back(read_file(entry.path(), raise_as<DataError>));
    }
    return result;
  }
};

TEST_P(FuzzCorpus, IsReadOrRefused) {
  EXPECT_GE(files().size(), 3u);
  for (const std::string& bytes : files()) testing::expect_answer(GetParam().read, bytes);
}

TEST_P(FuzzCorpus, IsReadOrRefusedCutShort) {
  constexpr size_t kCuts = 12;
  for (const std::string& bytes : files()) {
    for (size_t cut = 0; cut < kCuts; ++cut) {
      testing::expect_answer(GetParam().read,
                             std::string_view(bytes).substr(0, bytes.size() * cut / kCuts));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FuzzCorpus, ::testing::ValuesIn(kTargets),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(FuzzCorpora, BelongToATarget) {
  std::set<std::string> names;
  for (const Target& target : kTargets) names.insert(target.name);
  std::set<std::string> folders;
  for (const auto& entry : fs::directory_iterator(corpus())) {
    folders.insert(entry.path().filename().string());
  }
  EXPECT_EQ(folders, names);
}

/// A reader that loses its temper.
void fails(std::string_view bytes) {
  if (bytes.empty()) throw DataError("empty");
  if (bytes == "x") throw InternalError("x");
  throw std::out_of_range("y");
}

TEST(FuzzTarget, AnswersWithAnErrorOfItsOwnOnly) {
  EXPECT_NO_THROW(testing::expect_answer(fails, ""));
  EXPECT_THROW(testing::expect_answer(fails, "x"), InternalError);
  EXPECT_THROW(testing::expect_answer(fails, "y"), std::out_of_range);
}

}  // namespace
}  // namespace sluice
