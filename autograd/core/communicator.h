#pragma once
// Collectives between the ranks of a run. Whatever is defined over the global batch (loads, losses,
// gradient norms, counts of valid tokens) goes through here, so that it means the same on one rank
// and on many. Sums add in rank order: the result is the same on every rank and from run to run.

#include <cstdint>
#include <span>

namespace sluice {

class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// values <- sum over ranks, in rank order. Throws CommError.
  virtual void sum(std::span<double> values) = 0;
  virtual void sum(std::span<float> values) = 0;
  virtual void sum(std::span<int64_t> values) = 0;
  /// Returns when every rank has arrived.
  virtual void barrier() = 0;
};

/// One rank: every collective is the identity.
class SingleRank final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  void sum(std::span<double>) override {}
  void sum(std::span<float>) override {}
  void sum(std::span<int64_t>) override {}
  void barrier() override {}
};

}  // namespace sluice
