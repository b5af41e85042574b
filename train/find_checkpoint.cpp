#include "train/find_checkpoint.h"

#include <fmt/ranges.h>

#include <cmath>

namespace sluice {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> best_path(const CheckpointStore& store, std::vector<std::string>& notes) {
  std::optional<fs::path> best;
  double lowest = 0.0;
  for (const int64_t step : store.steps()) {
    const fs::path path = store.path_of(step);
    try {
      const std::optional<double> loss = read_checkpoint_summary(path).meta.eval_loss;
      if (!loss || !std::isfinite(*loss) || (best && *loss >= lowest)) continue;
      best = path;
      lowest = *loss;
    } catch (const CheckpointError& error) {
      notes.emplace_back(error.what());
    }
  }
  return best;
}

CheckpointStore::Found find_best(const CheckpointStore& store, const fs::path& folder,
                                 std::vector<std::string>& notes) {
  const auto best = best_path(store, notes);
  SLUICE_CHECK(CheckpointError, best.has_value(),
               "{}: no whole checkpoint has a held-out loss, so none is the best; leave out --best "
               "to take the newest",
               folder.string());
  return {*best, read_checkpoint(*best)};
}

}  // namespace

fs::path checkpoint_folder(const fs::path& folder) {
  const fs::path inside = folder / "checkpoints";
  return fs::is_directory(inside) ? inside : folder;
}

CheckpointStore::Found find_checkpoint(const fs::path& path, CheckpointChoice choice,
                                       std::vector<std::string>& notes) {
  SLUICE_CHECK(ConfigError, fs::exists(path),
               "{}: no such checkpoint file or run folder; `sluice train` makes one",
               path.string());
  if (!fs::is_directory(path)) return {path, read_checkpoint(path)};
  const CheckpointStore store(checkpoint_folder(path));
  SLUICE_CHECK(ConfigError, !store.steps().empty(),
               "{}: holds no checkpoint yet; give the folder of a run that has saved one",
               path.string());
  if (choice == CheckpointChoice::best) return find_best(store, path, notes);
  auto newest = store.newest_valid(notes);
  SLUICE_CHECK(CheckpointError, newest.has_value(), "{}: no checkpoint is whole ({})",
               path.string(), fmt::join(notes, "; "));
  return *std::move(newest);
}

Progress progress_of(const Recipe& recipe, const CheckpointMeta& meta) {
  const Duration& length = recipe.train.steps;
  if (meta.train_tokens > 0 || length.unit != DurationUnit::epochs) {
    return derive_sizes(recipe, meta.train_tokens).progress(meta.step, meta.tokens, meta.schedule);
  }
  const int64_t step = meta.step + meta.schedule.steps;
  const int64_t tokens = meta.tokens + meta.schedule.tokens;
  return {.step = step,
          .tokens = tokens,
          .epochs = length.count,
          .total_steps = step,
          .total_tokens = tokens,
          .total_epochs = length.count};
}

}  // namespace sluice
