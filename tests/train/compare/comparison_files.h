#pragma once
// Comparisons of the tiny recipe, for the tests of `compare`.

#include <fstream>
#include <string>
#include <string_view>

#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/compare/comparison.h"
#include "train/compare/result.h"

namespace sluice::testing {

/// A folder with base.yaml, the tiny recipe, and comparisons written beside it.
class ComparisonFiles {
 public:
  ComparisonFiles() { write("base.yaml", tiny_recipe_text()); }
  std::filesystem::path write(const std::string& name, std::string_view text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  [[nodiscard]] Comparison load(std::string_view text) const {
    return load_comparison(write("c.yaml", text));
  }
  /// What load() complains about; "" when it does not.
  [[nodiscard]] std::string problems_of(std::string_view text) const {
    try {
      (void)load(text);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return {};
  }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return folder_ / name;
  }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }

 private:
  ScratchFolder folder_;
};

}  // namespace sluice::testing
