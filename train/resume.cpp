#include "train/resume.h"

#include <fmt/ranges.h>

#include "train/format.h"

namespace sluice {
namespace {

std::optional<CheckpointStore::Found> newest(const CheckpointStore& store,
                                             std::vector<std::string>& notes) {
  auto found = store.newest_valid(notes);
  const std::vector<int64_t> steps = store.steps();
  SLUICE_CHECK(CheckpointError, found || steps.empty(),
               "{}: no checkpoint is whole ({}); restore one, or train in another folder with "
               "--out",
               store.path_of(steps.empty() ? 0 : steps.back()).parent_path().string(),
               fmt::join(notes, "; "));
  return found;
}

}  // namespace

std::optional<CheckpointStore::Found> find_resume_point(const CheckpointStore& store,
                                                        const std::string& resume,
                                                        std::vector<std::string>& notes) {
  if (resume == "auto") return newest(store, notes);
  const std::vector<int64_t> steps = store.steps();
  if (resume == "never") {
    SLUICE_CHECK(ConfigError, steps.empty(),
                 "--resume never: {} holds {} of an earlier run; remove them, or train "
                 "in another folder with --out",
                 store.path_of(steps.back()).parent_path().string(),
                 counted(std::ssize(steps), "checkpoint"));
    return std::nullopt;
  }
  SLUICE_CHECK(ConfigError, std::filesystem::exists(resume),
               "--resume: no file \"{}\"; allowed auto, never or a checkpoint", resume);
  CheckpointStore::Found found{resume, read_checkpoint(resume)};
  SLUICE_CHECK(ConfigError, steps.empty() || steps.back() <= found.checkpoint.meta.step,
               "--resume {}: {} holds a later checkpoint, of step {}; branch off in another folder "
               "with --out",
               resume, store.path_of(steps.back()).parent_path().string(), steps.back());
  return found;
}

void check_same_recipe(const Recipe& recipe, const CheckpointStore::Found& from) {
  const Recipe before = parse_recipe(from.checkpoint.meta.recipe, from.path.string());
  const auto refused = refused_changes(before, recipe);
  if (refused.empty()) return;
  std::string list;
  for (const FieldDifference& difference : refused) {
    list += fmt::format("\n  {}: {} there, {} here", difference.key, difference.before,
                        difference.after);
  }
  throw ConfigError(
      fmt::format("{} was trained with another recipe; give back the old values, or train in "
                  "another folder with --out (train.init_from starts from its weights):{}",
                  from.path.string(), list));
}

}  // namespace sluice
