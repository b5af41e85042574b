#pragma once
// Several ranks in one process: a thread each, and a communicator between them.

#include <barrier>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "autograd/core/communicator.h"

namespace sluice::testing {

class ThreadRanks {
 public:
  /// Calls body(communicator) on `size` threads, one rank each, and waits for all. Rethrows the
  /// error of the lowest rank that threw.
  static void run(int size, const std::function<void(Communicator&)>& body) {
    Shared shared(size);
    std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        Rank communicator(shared, rank);
        try {
          body(communicator);
        } catch (...) {
          errors[static_cast<size_t>(rank)] = std::current_exception();
          shared.barrier.arrive_and_drop();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  struct Shared {
    explicit Shared(int size) : values(static_cast<size_t>(size)), barrier(size) {}
    std::vector<const void*> values;  // what each rank brings to the sum under way
    std::barrier<> barrier;
  };

  class Rank final : public Communicator {
   public:
    Rank(Shared& shared, int rank) : shared_(shared), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return static_cast<int>(shared_.values.size()); }
    void sum(std::span<double> values) override { sum_of(values); }
    void sum(std::span<float> values) override { sum_of(values); }
    void sum(std::span<int64_t> values) override { sum_of(values); }
    void barrier() override { shared_.barrier.arrive_and_wait(); }

   private:
    template <class T>
    void sum_of(std::span<T> values) {
      shared_.values[static_cast<size_t>(rank_)] = values.data();
      barrier();
      std::vector<T> total(values.size());
      for (const void* brought : shared_.values) {
        const T* other = static_cast<const T*>(brought);
        for (size_t i = 0; i < total.size(); ++i) total[i] += other[i];
      }
      barrier();  // everyone has read before anyone writes
      std::copy(total.begin(), total.end(), values.begin());
    }
    Shared& shared_;
    int rank_;
  };
};

}  // namespace sluice::testing
