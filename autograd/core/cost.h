#pragma once
// Where the work goes: every kernel call states its floating-point operations and the bytes it must
// move, and runs under a phase. `plan` adds these up without running a kernel; a run measures the
// time beside them.

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace sluice {

/// The parts of a step that a report splits time and FLOPs by.
enum class Phase : uint8_t {
  other,
  embedding_and_loss,
  attention,
  feed_forward,
  experts,
  routing,    // scores, the choice, dispatch and combine
  balancing,  // what a balancing method adds to that: prices, plans, losses and their backward,
              // combine weights of its own, what it learns at the end of a step
  optimizer
};
inline constexpr int kPhases = 8;
[[nodiscard]] std::string_view name_of(Phase phase);

/// `extra`: a forward computed another time, for recomputation or to count loads beforehand.
enum class Direction : uint8_t { forward, backward, extra };
inline constexpr int kDirections = 3;

/// Cost of one kernel call, counted, not measured.
struct KernelCost {
  double flops = 0.0;  // of matrix products and attention (one multiply-add = 2); element-wise work
                       // is not counted
  double bytes = 0.0;  // that must be read or written at least once
};

/// The name of work between kernels.
inline constexpr std::string_view kHostWork = "host";

/// One kernel call, or what the host did between kernels.
struct WorkItem {
  using Clock = std::chrono::steady_clock;
  std::string_view name;  // of the op, or kHostWork; lives as long as the program
  Phase phase = Phase::other;
  Direction direction = Direction::forward;
  KernelCost cost;
  Clock::time_point start;
  Clock::time_point end;
  /// What of it no item inside it accounts for; end - start for a kernel.
  double seconds = 0.0;
};

/// Sees every item of work when it ends, those inside another one before it.
class WorkObserver {
 public:
  virtual ~WorkObserver() = default;
  virtual void add(const WorkItem& item) = 0;
};

/// Adds up costs and seconds by phase and direction. Not thread-safe: kernels are called from one
/// thread.
class CostMeter {
 public:
  struct Entry {
    double flops = 0.0;
    double bytes = 0.0;
    double seconds = 0.0;
    int64_t calls = 0;
  };

  /// A kernel that was not run: its cost is counted.
  void count(Phase phase, Direction direction, const KernelCost& cost);
  /// Work that was done; the host's is no call.
  void add(const WorkItem& item);
  /// Shows every further item to `observer`, which outlives the meter or is taken away by null.
  void show_to(WorkObserver* observer) { observer_ = observer; }
  [[nodiscard]] const Entry& at(Phase phase, Direction direction) const {
    return entries_[static_cast<size_t>(phase)][static_cast<size_t>(direction)];
  }
  /// Sum over directions.
  [[nodiscard]] Entry phase_total(Phase phase) const;
  /// Sum over phases.
  [[nodiscard]] Entry direction_total(Direction direction) const;
  [[nodiscard]] Entry total() const;
  /// FLOPs of the forward and backward that a step needs: all but the extra ones.
  [[nodiscard]] double useful_flops() const;
  /// Seconds added so far; grows only, reset() leaves it.
  [[nodiscard]] double seconds_added() const { return seconds_added_; }
  void reset() { entries_ = {}; }
  /// What was added since the last reset, which this is.
  [[nodiscard]] CostMeter take();

 private:
  std::array<std::array<Entry, kDirections>, kPhases> entries_{};
  double seconds_added_ = 0.0;
  WorkObserver* observer_ = nullptr;
};

/// Attributes the time that passes while it lives, apart from what kernel calls and inner timers
/// already account for, to a phase: work on the host between kernels, or a named call with its cost.
/// Without a meter it does nothing.
class PhaseTimer {
 public:
  PhaseTimer(CostMeter* meter, Phase phase, Direction direction);
  PhaseTimer(CostMeter* meter, Phase phase, Direction direction, std::string_view name,
             const KernelCost& cost);
  ~PhaseTimer();
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  CostMeter* meter_;
  WorkItem item_;
  double added_before_ = 0.0;
};

}  // namespace sluice
