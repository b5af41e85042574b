#pragma once
// Numbers that may vary with the step: learning rate, coefficients, bias rate, temperature, top-k,
// noise.
//
// A recipe gives either a number or a schedule (`{type: cosine, peak: 1.0e-3, warmup: 100 steps}`),
// read by the same code for every such key. The shapes (constant, linear, cosine, ...) are
// registered in optim/schedules. A value is a pure function of Progress, so nothing is checkpointed
// and a resumed run gets the same value.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "autograd/support/fields.h"

namespace sluice {

/// Where a run stands. `step` counts from 0: the first optimizer step sees step 0.
struct Progress {
  int64_t step = 0;
  int64_t tokens = 0;         // tokens consumed before this step
  double epochs = 0.0;        // passes over the training data before this step
  int64_t total_steps = 0;    // planned length of the run
  int64_t total_tokens = 0;   // total_steps * tokens per step
  double total_epochs = 0.0;  // total_tokens over the tokens of one pass
};

enum class DurationUnit { steps, tokens, epochs, percent };

/// How much of the run has passed, in `unit`. Throws ConfigError for percent when the run's length
/// is unknown.
[[nodiscard]] double elapsed_in(DurationUnit unit, const Progress& progress);
/// Planned length of the run in `unit`. Throws ConfigError when it is not known (total 0).
[[nodiscard]] double run_length_in(DurationUnit unit, const Progress& progress);

/// "300 steps", "2M tokens", "3 epochs", "10%" (of the run); a bare integer means steps. Suffixes
/// k, M, G are 1e3, 1e6, 1e9. Steps and tokens are whole numbers up to 2^53, epochs any number from
/// 0, percent 0 to 100.
struct Duration {
  double count = 0.0;
  DurationUnit unit = DurationUnit::steps;

  /// Throws ConfigError naming what is allowed.
  [[nodiscard]] static Duration parse(std::string_view text);
  /// Canonical text, parsed back to the same value: "2000000 tokens", "1 step", "12.5%".
  [[nodiscard]] std::string to_string() const;
  /// How much of the run has passed, in this duration's unit.
  [[nodiscard]] double elapsed(const Progress& progress) const {
    return elapsed_in(unit, progress);
  }
  /// This duration in another unit, at the rate that the run plans (its length in both units).
  /// Exact, and needing no run length, when the unit is its own.
  [[nodiscard]] double in(DurationUnit other, const Progress& progress) const;
  friend bool operator==(const Duration&, const Duration&) = default;
};

/// The shape of a schedule: a pure function. Implemented in optim/schedules, one file each.
class ScheduleShape : public Configurable {
 public:
  [[nodiscard]] virtual double value(const Progress& progress) const = 0;

  struct Extremes {
    double least = 0.0;
    double greatest = 0.0;
  };
  /// Bounds of value() over any run: a reader holds them against the range of the scheduled key.
  [[nodiscard]] virtual Extremes extremes() const = 0;
};

/// A constant, or a schedule.
class Scheduled {
 public:
  Scheduled() = default;
  Scheduled(double constant) : constant_(constant) {}  // NOLINT(google-explicit-constructor)
  Scheduled(std::string type, std::shared_ptr<ScheduleShape> shape)
      : type_(std::move(type)), shape_(std::move(shape)) {}

  [[nodiscard]] double at(const Progress& progress) const {
    return shape_ ? shape_->value(progress) : constant_;
  }
  /// Bounds of at() over any run.
  [[nodiscard]] ScheduleShape::Extremes extremes() const {
    return shape_ ? shape_->extremes() : ScheduleShape::Extremes{constant_, constant_};
  }
  [[nodiscard]] bool is_constant() const { return shape_ == nullptr; }
  [[nodiscard]] double constant() const { return constant_; }
  /// Registered name of the shape; empty for a constant.
  [[nodiscard]] const std::string& type() const { return type_; }
  [[nodiscard]] const ScheduleShape* shape() const { return shape_.get(); }
  /// For visitors that print the shape's fields (`fields` is not const); nobody changes them. Null
  /// for a constant.
  [[nodiscard]] const std::shared_ptr<ScheduleShape>& config() const { return shape_; }

 private:
  double constant_ = 0.0;
  std::string type_;
  // Shared: a schedule is immutable, and copies of a config share it.
  std::shared_ptr<ScheduleShape> shape_;
};

}  // namespace sluice
