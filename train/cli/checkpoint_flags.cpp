#include "train/cli/checkpoint_flags.h"

#include <CLI/CLI.hpp>
#include <cstdio>

namespace sluice {

void CheckpointFlags::declare(CLI::App& app, const std::string& doc, const std::string& kinds) {
  app.add_option("checkpoint", path, doc)->required()->type_name(kinds);
  app.add_flag("--best", best, "of a run, the checkpoint with the lowest held-out loss");
}

CheckpointStore::Found CheckpointFlags::find() const {
  SLUICE_CHECK(ConfigError, !best || !std::filesystem::is_regular_file(path),
               "--best: {} is a file; give the folder of a run to choose from", path);
  std::vector<std::string> notes;
  auto found = find_checkpoint(path, choice(), notes);
  for (const std::string& note : notes) print_note(note);
  return found;
}

void print_note(const std::string& sentence) {
  std::fflush(stdout);
  fmt::print(stderr, "note: {}\n", sentence);
}

}  // namespace sluice
