#include "train/checkpoint/store.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr std::string_view kPrefix = "step_";
constexpr std::string_view kSuffix = ".h5";

// The step in a file name, or nothing for a file that is no checkpoint.
std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(kSuffix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return step;
}

/// The calling thread gives way to all others. A writer that the system does not let do so only
/// costs more.
void step_back() {
  constexpr int kLowest = 19;
  // On Linux this is the thread's own priority.
  (void)setpriority(PRIO_PROCESS, 0, kLowest);
}

}  // namespace

void CheckpointConfig::fields(FieldVisitor& visitor) {
  visitor.duration({"every", "time between checkpoints"}, every);
  visitor.integer({"keep", "how many of the newest checkpoints stay on disk"}, keep, {.min = 1});
  visitor.boolean({"keep_best", "also keep the one with the lowest held-out loss"}, keep_best);
  visitor.boolean({"asynchronous", "write in the background while training goes on"}, asynchronous);
}

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:08}{}", kPrefix, step, kSuffix);
}

std::vector<int64_t> expired_checkpoints(
    const std::map<int64_t, std::optional<double>>& eval_loss_of, int64_t keep, bool keep_best) {
  std::optional<int64_t> best;
  for (const auto& [step, loss] : eval_loss_of) {
    if (!loss || !std::isfinite(*loss)) continue;
    if (!best || *loss < *eval_loss_of.at(*best)) best = step;
  }
  std::vector<int64_t> expired;
  int64_t candidates = static_cast<int64_t>(eval_loss_of.size()) - std::max<int64_t>(keep, 1);
  for (const auto& [step, loss] : eval_loss_of) {
    if (candidates-- <= 0) break;
    if (!keep_best || step != best) expired.push_back(step);
  }
  return expired;
}

CheckpointStore::CheckpointStore(std::filesystem::path folder, StoreOptions options,
                                 FileSystem& files)
    : folder_(std::move(folder)), options_(options), files_(files) {}

CheckpointStore::~CheckpointStore() {
  if (in_flight_.valid()) in_flight_.wait();
}

void CheckpointStore::open_for_writing() {
  create_folders(files_, folder_, raise_as<CheckpointError>);
  (void)remove_stale_temporaries(files_, folder_);
}

void CheckpointStore::reserve(int64_t state_bytes) { image_.reserve(state_bytes); }

template <class Fill>
void CheckpointStore::save_filled(const CheckpointMeta& meta, Fill&& fill) {
  finish();
  fill(path_of(meta.step).string());
  const auto write = [this, step = meta.step, loss = meta.eval_loss] {
    if (options_.asynchronous) step_back();
    write_and_expire(step, loss);
  };
  in_flight_ =
      std::async(options_.asynchronous ? std::launch::async : std::launch::deferred, write);
  if (!options_.asynchronous) finish();
}

void CheckpointStore::save(const CheckpointMeta& meta,
                           FunctionRef<void(StateVisitor&)> visit_state) {
  save_filled(meta, [&](const std::string& name) { image_.fill(name, meta, visit_state); });
}

void CheckpointStore::save(const Checkpoint& checkpoint) {
  save_filled(checkpoint.meta, [&](const std::string& name) { image_.fill(name, checkpoint); });
}

void CheckpointStore::check() {
  using namespace std::chrono_literals;
  if (in_flight_.valid() && in_flight_.wait_for(0s) == std::future_status::ready) finish();
}

void CheckpointStore::finish() {
  if (in_flight_.valid()) in_flight_.get();
}

std::vector<std::string> CheckpointStore::take_warnings() {
  const std::lock_guard lock(warnings_mutex_);
  return std::exchange(warnings_, {});
}

void CheckpointStore::warn(std::string warning) {
  const std::lock_guard lock(warnings_mutex_);
  warnings_.push_back(std::move(warning));
}

void CheckpointStore::write_and_expire(int64_t step, std::optional<double> eval_loss) {
  write_checkpoint(files_, path_of(step), image_);
  learn_losses_of_earlier_files();
  eval_loss_of_[step] = eval_loss;
  for (const int64_t old : expired_checkpoints(eval_loss_of_, options_.keep, options_.keep_best)) {
    // After a resume from an older file, newer ones of the abandoned run may still be here.
    if (old == step) continue;
    if (files_.remove(path_of(old).c_str()) < 0) {
      warn(fmt::format("{}: the expired checkpoint cannot be deleted", path_of(old).string()));
    }
    eval_loss_of_.erase(old);
  }
}

// Files of an earlier process count only when whole: a damaged one neither protects nor displaces a
// good one, and stays for its owner to look at.
void CheckpointStore::learn_losses_of_earlier_files() {
  if (std::exchange(knows_earlier_files_, true)) return;
  for (const int64_t step : steps()) {
    try {
      eval_loss_of_[step] = read_checkpoint_summary(path_of(step)).meta.eval_loss;
    } catch (const CheckpointError& error) {
      warn(error.what());
    }
  }
}

std::optional<CheckpointStore::Found> CheckpointStore::newest_valid(
    std::vector<std::string>& warnings) const {
  std::vector<int64_t> newest_first = steps();
  std::ranges::reverse(newest_first);
  for (const int64_t step : newest_first) {
    const std::filesystem::path path = path_of(step);
    try {
      return Found{path, read_checkpoint(path)};
    } catch (const CheckpointError& error) {
      warnings.emplace_back(error.what());
    }
  }
  return std::nullopt;
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const auto step = step_of(entry.path().filename().string());
    // Only names that path_of gives back: step_7.h5 is somebody else's.
    if (step && entry.path().filename() == checkpoint_name(*step)) steps.push_back(*step);
  }
  std::ranges::sort(steps);
  return steps;
}

std::filesystem::path CheckpointStore::path_of(int64_t step) const {
  return folder_ / checkpoint_name(step);
}

}  // namespace sluice
