#pragma once
// Located errors of a recipe: where, which key, what was found, what is allowed.
//
//   recipe.yaml:14:7: balance.coef: unknown key of type "bip"; did you mean "coefficient"?
//
// A recipe is checked whole: diagnostics are collected, and raised together.

#include <memory>
#include <string>
#include <vector>

namespace sluice {

/// Where text of a recipe came from.
struct SourceText {
  std::string label;   // as printed: the file as the user named it, or "--set a.b.c"
  std::string folder;  // absolute; relative paths in the text start here
  int order = 0;       // files in the order given, then --set
};

/// A place in a source. Line and column count from 1, columns in characters; line 0 means the
/// source as a whole (a --set has no lines).
struct Location {
  // Shared: every node of a document points to its source.
  std::shared_ptr<const SourceText> source;
  int line = 0;
  int column = 0;

  /// "recipe.yaml:14:7", "--set train.steps", or "" without a source.
  [[nodiscard]] std::string to_string() const;
};

struct Diagnostic {
  Location where;
  std::string key;      // full dotted key; empty for the file as a whole
  std::string message;  // one clause or sentence, without the key

  /// "where: key: message"
  [[nodiscard]] std::string to_string() const;
};

/// What is wrong with a recipe, in the order found.
class Diagnostics {
 public:
  void add(Location where, std::string key, std::string message);
  void add(const Diagnostics& others);

  [[nodiscard]] bool empty() const { return items_.empty(); }
  [[nodiscard]] size_t size() const { return items_.size(); }
  [[nodiscard]] const std::vector<Diagnostic>& items() const { return items_; }

  /// Puts them in the order in which a reader meets them: source, line, column.
  void sort();
  /// One line each.
  [[nodiscard]] std::string to_string() const;
  /// Throws ConfigError with all of them, one a line, unless there are none.
  void throw_if_any() const;

 private:
  std::vector<Diagnostic> items_;
};

}  // namespace sluice
