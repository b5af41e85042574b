#pragma once
// Where metric records go. A sink is one file in train/metrics/sinks and one line in sinks.def.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "autograd/support/file.h"
#include "autograd/support/registry.h"
#include "train/metrics/metric.h"
#include "train/metrics/routing_record.h"

namespace sluice {

class Sink {
 public:
  virtual ~Sink() = default;
  /// Before the first record of a process: forgets what was recorded past `step` (-1: everything),
  /// so that the steps to come are recorded once. A last record that a killed process left
  /// unfinished goes too. Call exactly once.
  virtual void truncate_after(int64_t /*step*/) {}
  virtual void record(const Record& record) = 0;
  /// What routers did; sinks for numbers ignore it.
  virtual void routing(const RoutingRecord& /*record*/) {}
  /// A sentence for people (an alarm, a checkpoint); sinks for programs ignore it.
  virtual void event(std::string_view /*sentence*/) {}
  /// Makes everything recorded durable. Call before a checkpoint is saved: after a crash, the
  /// records up to the checkpoint's step are then there.
  virtual void flush() {}
};

/// What the console is. A terminal gets a bar that is redrawn in place; anything else gets plain
/// lines.
struct ConsoleTarget {
  std::ostream* out = nullptr;
  bool is_terminal = false;
  int columns = 80;

  [[nodiscard]] static ConsoleTarget standard_output();
};

struct SinkContext {
  std::filesystem::path folder;  // of the run; exists
  FileSystem* files = &real_file_system();
  ConsoleTarget console;
  int64_t total_steps = 0;  // 0 when the length of the run is not known in steps
  int64_t num_experts = 0;  // over all layers
  /// Seconds since 1970; TensorBoard asks for them.
  std::function<double()> wall_clock;
};

struct SinkType {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Sink> (*make)(const SinkContext& context);
};

/// The sinks of sinks.def.
[[nodiscard]] const Registry<SinkType>& sinks();

}  // namespace sluice
