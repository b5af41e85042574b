#include "train/cli/checkpoint_flags.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "train/transforms/leave_out.h"

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

void declare_left_out(CLI::App& app, std::string& experts) {
  app.add_option("--without-experts", experts,
                 "experts to leave out in every layer, by number: 2,5 or 1-3 (the rest of the model "
                 "does not know them)")
      ->type_name("LIST");
}

Checkpoint without_experts(Checkpoint checkpoint, const std::string& name,
                           const std::string& experts) {
  if (experts.empty()) return checkpoint;
  return leave_out_experts(checkpoint, name,
                           with_context([] { return "--without-experts"; },
                                        [&] { return parse_expert_list(experts); }));
}

void declare_weights(CLI::App& app, WeightStorage& weights) {
  app.add_option_function<std::string>(
         "--weights",
         [&weights](const std::string& word) {
           weights = word == "bf16" ? WeightStorage::bf16 : WeightStorage::f32;
         },
         "how to hold the weight matrices: f32, or bf16 in half the memory (rounded to nearest; "
         "sums, norms and routers stay f32)")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->default_str("f32");
}

void print_note(const std::string& sentence) {
  std::fflush(stdout);
  fmt::print(stderr, "note: {}\n", sentence);
}

}  // namespace sluice
