#include "train/cli/command.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <new>

#include "autograd/support/cpu.h"
#include "autograd/support/error.h"
#include "autograd/support/registry.h"

namespace sluice {

namespace {

#define SLUICE_COMMAND(name) &name##_command,
const Command* const kCommands[] = {
#include "train/cli/commands.def"
};
#undef SLUICE_COMMAND

int report(ExitStatus status, const std::string& message) {
  std::fflush(stdout);
  fmt::print(stderr, "sluice: {}\n", message);
  return static_cast<int>(status);
}

/// Runs `action`; the only place where an error becomes a message and an exit status.
int guarded(const std::function<int()>& action) {
  try {
    return action();
  } catch (const ConfigError& error) {
    return report(ExitStatus::usage, error.what());
  } catch (const NumericError& error) {
    return report(ExitStatus::diverged, error.what());
  } catch (const Error& error) {
    return report(ExitStatus::failure, error.what());
  } catch (const std::bad_alloc&) {
    return report(ExitStatus::failure, "out of memory; `sluice plan` shows what a recipe needs");
  } catch (const std::exception& error) {
    return report(ExitStatus::failure, fmt::format("unexpected error: {}", error.what()));
  }
}

/// What was written may still fail to arrive: a full disk, a reader that has gone.
int finish_output(int status) {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  fmt::print(stderr, "sluice: standard output: not all of it could be written\n");
  return status == 0 ? static_cast<int>(ExitStatus::failure) : status;
}

/// A word that is no verb of `app`, or of its verb's own, with the nearest one; "" when there is
/// nothing to say. The parser would only miss a verb.
std::string unknown_verb(const CLI::App& app, std::span<const char* const> words) {
  const std::vector<const CLI::App*> verbs = app.get_subcommands({});
  if (words.empty() || words[0][0] == '-' || verbs.empty()) return {};
  const std::string_view word = words[0];
  std::vector<std::string> names;
  for (const CLI::App* verb : verbs) {
    if (verb->get_name() == word) return unknown_verb(*verb, words.subspan(1));
    names.push_back(verb->get_name());
  }
  const std::vector<std::string_view> known(names.begin(), names.end());
  const bool is_first = app.get_parent() == nullptr;
  return unknown_name(is_first ? "command" : app.get_name() + " command", word, known);
}

/// "sluice recipes ls": what the command line got to.
std::string parsed_command(const CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app.get_name() : app.get_name() + " " + parsed_command(*chosen.front());
}

}  // namespace

std::span<const Command* const> command_table() { return kCommands; }

int run_command_line(int argc, const char* const* argv) {
  const int unfit = guarded([] {
    check_processor();
    return 0;
  });
  if (unfit != 0) return unfit;
  // A file beyond the process's limit is then an error with a name, like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app("Trains small Mixture-of-Experts language models from a YAML recipe.", "sluice");
  app.set_version_flag("--version", std::string("sluice ") + SLUICE_VERSION);
  app.require_subcommand(1);
  app.footer("\nExample: sluice train recipes/quickstart.yaml\nEvery command has --help.");
  std::function<int()> chosen;
  for (const Command* command : kCommands) {
    CLI::App* sub = app.add_subcommand(std::string(command->name), std::string(command->summary));
    sub->footer("\nExample: " + std::string(command->example));
    const std::function<int()> action = command->declare(*sub);
    sub->final_callback([&chosen, action] { chosen = action; });
  }
  const std::span<const char* const> words(argv + std::min(argc, 1),
                                           static_cast<size_t>(std::max(argc - 1, 0)));
  if (const std::string problem = unknown_verb(app, words); !problem.empty()) {
    return report(ExitStatus::usage, problem);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return finish_output(app.exit(success));
  } catch (const CLI::ParseError& error) {
    return report(ExitStatus::usage,
                  fmt::format("{}; see `{} --help`", error.what(), parsed_command(app)));
  }
  return finish_output(guarded(chosen));
}

}  // namespace sluice
