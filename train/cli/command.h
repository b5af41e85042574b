#pragma once
// A verb of the program: one file and one line of commands.def.

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/yaml_document.h"

namespace CLI {
class App;
}

namespace sluice {

/// Exit status of the program (128 + n for a signal).
enum class ExitStatus : int { success = 0, failure = 1, usage = 2, diverged = 3 };

struct Command {
  std::string_view name;
  std::string_view summary;  // one line of `sluice --help`
  std::string_view example;  // works as typed in a fresh clone; the end of `sluice <name> --help`
  /// Declares flags on `app` and returns what runs once they were parsed; its result is the exit
  /// status.
  std::function<int()> (*declare)(CLI::App& app);
};

#define SLUICE_COMMAND(name) extern const Command name##_command;
#include "train/cli/commands.def"
#undef SLUICE_COMMAND

/// All verbs, in the order of commands.def.
[[nodiscard]] std::span<const Command* const> command_table();

/// Runs the program: parses, runs, and turns an error into one message on stderr and an exit
/// status.
[[nodiscard]] int run_command_line(int argc, const char* const* argv);

// --- shared flags --------------------------------------------------------------------------------

/// `RECIPE... --set a.b.c=value`: recipe files (later ones win) and overrides.
struct RecipeFlags {
  std::vector<std::string> files;
  std::vector<std::string> sets;
  void declare(CLI::App& app);
  /// Shipped recipes may be given by name ("quickstart").
  [[nodiscard]] RecipeSource source() const;
  /// Stem of the last file: the default name of the run.
  [[nodiscard]] std::string run_name() const;
};

/// For CLI::Option::check: "" for a whole number from 0 to 2^63 - 1, else what is wrong. The parser
/// alone takes a number that is too large for the largest there is.
[[nodiscard]] std::string check_whole_number(const std::string& text);

/// A shipped recipe's file, by its name without ".yaml", with or without its folder ("routers/thor");
/// empty when there is none.
[[nodiscard]] std::filesystem::path find_shipped_recipe(std::string_view name);
/// The same; throws ConfigError with the known names when there is none.
[[nodiscard]] std::filesystem::path require_shipped_recipe(const std::string& name);
/// The file `name`, or else the shipped recipe of that name. Throws ConfigError when it is neither
/// and a bare word; a path that is not there is left to who opens it.
[[nodiscard]] std::filesystem::path recipe_file(const std::string& name);
/// All shipped recipes, by folder and name.
[[nodiscard]] std::vector<std::filesystem::path> shipped_recipes();

}  // namespace sluice
