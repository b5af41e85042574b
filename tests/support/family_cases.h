#pragma once
// A small model of every family of published models, for tests of the way out and in.

#include <string>
#include <vector>

namespace sluice::testing {

struct FamilyCase {
  std::string name;    // of the test
  std::string family;  // the one that export takes by itself
  std::string model;   // YAML of the sections model and balance
};

/// Every family at least once.
[[nodiscard]] std::vector<FamilyCase> family_cases();

}  // namespace sluice::testing
