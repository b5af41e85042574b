#pragma once
// Where the time of training goes, call by call: `sluice train --profile`.
//
//   Profile profile;
//   meter.show_to(&profile);
//   {
//     const Profile::Step step(&profile, 12);
//     ...                                        // every kernel call reaches the profile
//   }
//   const ProfileSummary summary = profile.summary();   // as text: profile_text.h
//   const std::string page = trace_events(profile);     // single calls: trace_events.h
//
// The first step of a process makes gradients and moments and faults in their memory: it is left
// out. Totals are those of all later steps; single calls are kept of the first kTracedSteps of them.
// Not thread-safe, as the meter.

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "autograd/core/cost.h"

namespace sluice {

/// Calls of one kind.
struct ProfileEntry {
  std::string_view name;  // of the op, or kHostWork
  Phase phase = Phase::other;
  Direction direction = Direction::forward;
  CostMeter::Entry total;  // of all profiled steps
};

struct ProfileSummary {
  std::filesystem::path page;  // of single calls (trace_events.h), where one was written
  int64_t steps = 0;
  double seconds = 0.0;               // of these steps
  std::vector<ProfileEntry> entries;  // most time first
  double gemm_peak = 0.0;             // FLOP/s of large products
  double triad_peak = 0.0;            // bytes/s of a[i] = b[i] + s c[i], from memory

  /// Seconds of the steps that no entry accounts for: work of the loop itself.
  [[nodiscard]] double unaccounted() const;
};

class Profile final : public WorkObserver {
 public:
  static constexpr int64_t kTracedSteps = 10;

  /// Something of the training loop: a step, an evaluation, a checkpoint.
  struct Stretch {
    std::string name;
    WorkItem::Clock::time_point start;
    WorkItem::Clock::time_point end;
  };

  /// A step of the run, from its construction to its destruction.
  class Step {
   public:
    /// `profile` may be null: then nothing happens. `number` counts from 1.
    Step(Profile* profile, int64_t number);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    Profile* profile_;
  };
  /// Anything else.
  class Span {
   public:
    Span(Profile* profile, std::string name);
    ~Span();
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    Profile* profile_;
    std::string name_;
    WorkItem::Clock::time_point start_;
  };

  void add(const WorkItem& item) override;

  /// Without page and peaks, which the profile does not know.
  [[nodiscard]] ProfileSummary summary() const;
  [[nodiscard]] const std::vector<WorkItem>& items() const { return items_; }
  [[nodiscard]] const std::vector<Stretch>& stretches() const { return stretches_; }

 private:
  struct Key {
    std::string_view name;
    Phase phase;
    Direction direction;
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  [[nodiscard]] bool counts() const { return in_step_ && steps_begun_ > 1; }
  [[nodiscard]] bool traces() const { return steps_begun_ > 1 && steps_begun_ <= kTracedSteps + 1; }
  void end_step();

  std::map<Key, CostMeter::Entry> totals_;
  std::vector<WorkItem> items_;
  std::vector<Stretch> stretches_;
  int64_t steps_begun_ = 0;
  bool in_step_ = false;
  int64_t step_number_ = 0;
  WorkItem::Clock::time_point step_start_;
  int64_t steps_ = 0;
  double seconds_ = 0.0;
};

}  // namespace sluice
