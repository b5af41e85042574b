#pragma once
// The maps of a comparison file: names to settings, with grids written out.

#include <string>
#include <vector>

#include "train/yaml_document.h"

namespace sluice {

/// A named set of `--set`s.
struct ComparisonCase {
  struct Setting {
    std::string key;
    Location where;
    YamlNode value;
  };
  std::string name;
  std::vector<Setting> settings;
};

struct ComparisonCases {
  ComparisonCase common;               // `set`: of every run
  std::vector<ComparisonCase> models;  // a nameless one without settings when the file has none
  std::vector<ComparisonCase> variations;
};

/// Takes `set`, `models`, `variations` and `grid` out of the document. A grid at the top multiplies every
/// variation (and stands alone without any). What is wrong with them becomes problems of the
/// document: names that are no file names, equal names, a grid without values, no variation at all.
[[nodiscard]] ComparisonCases take_cases(YamlDocument& document);

}  // namespace sluice
