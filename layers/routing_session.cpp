#include "layers/routing_session.h"

#include <algorithm>
#include <utility>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Empties a selection and keeps its memory.
void clear(Selection& selection) {
  selection.tokens = selection.experts = selection.top_k = selection.dropped = 0;
  selection.expert.clear();
  selection.dispatched.clear();
  selection.load.clear();
  selection.unbiased_load.clear();
  selection.plan.clear();
  selection.fixed_weights.clear();
  selection.shifted = false;
}

/// Gives the loads that this rank did not touch the sizes that they have on the others: a rank may
/// have had nothing to evaluate. A layer that no rank touched stays empty.
void agree_on_sizes(std::vector<LayerLoad>& loads, Communicator& communicator) {
  std::vector<int64_t> sizes;  // per layer: ranks that routed, sum of their E, of their k,
                               // of their unbiased E
  for (const LayerLoad& load : loads) {
    const auto experts = static_cast<int64_t>(load.counts.size());
    sizes.insert(sizes.end(), {experts > 0 ? 1 : 0, experts, load.top_k,
                               static_cast<int64_t>(load.unbiased.size())});
  }
  communicator.sum(std::span<int64_t>(sizes));
  for (size_t layer = 0; layer < loads.size(); ++layer) {
    const int64_t ranks = sizes[4 * layer];
    if (ranks == 0 || !loads[layer].counts.empty()) continue;
    loads[layer].counts.assign(static_cast<size_t>(sizes[4 * layer + 1] / ranks), 0);
    loads[layer].top_k = sizes[4 * layer + 2] / ranks;
    loads[layer].unbiased.assign(static_cast<size_t>(sizes[4 * layer + 3] / ranks), 0);
  }
}

void reduce_all(std::vector<LayerLoad>& loads, Communicator& communicator) {
  if (communicator.size() == 1) return;
  agree_on_sizes(loads, communicator);
  for (LayerLoad& load : loads) {
    if (!load.counts.empty()) load.reduce(communicator);
  }
}

/// Of every layer; their memory stays.
void clear(std::vector<LayerLoad>& loads) {
  for (LayerLoad& load : loads) load.clear();
}

void check_all_routed(const std::vector<LayerLoad>& loads) {
  for (size_t layer = 0; layer < loads.size(); ++layer) {
    SLUICE_INTERNAL_CHECK(!loads[layer].counts.empty(), "expert layer {} routed nothing", layer);
  }
}

}  // namespace

RoutingSession::RoutingSession(std::vector<std::unique_ptr<Balancer>> balancers)
    : balancers_(std::move(balancers)),
      loads_(balancers_.size()),
      counted_loads_(balancers_.size()),
      eval_loads_(balancers_.size()),
      router_sums_(balancers_.size()),
      journal_(balancers_.size()),
      transient_(balancers_.size()) {}

bool RoutingSession::needs_global_counts() const {
  return std::any_of(balancers_.begin(), balancers_.end(),
                     [](const auto& balancer) { return balancer->traits().needs_global_counts; });
}

bool RoutingSession::batch_dependent() const {
  return std::any_of(balancers_.begin(), balancers_.end(),
                     [](const auto& balancer) { return balancer->traits().batch_dependent; });
}

void RoutingSession::begin_step(int64_t micro_batches, int ranks) {
  SLUICE_INTERNAL_CHECK(phase_ == Phase::training, "a step begins inside {}",
                        evaluating() ? "an evaluation" : "a counting pass");
  SLUICE_INTERNAL_CHECK(micro_batches >= 1 && ranks >= 1, "{} micro-batches on {} ranks",
                        micro_batches, ranks);
  micro_batches_ = micro_batches;
  ranks_ = ranks;
  micro_batch_ = 0;
  counted_ = false;
  routed_ = false;
  // A step of fewer micro-batches leaves the places of the others for the next.
  const size_t places = static_cast<size_t>(micro_batches) * balancers_.size();
  if (journal_.size() < places) journal_.resize(places);
  forget_selections();
  clear(loads_);
  running_communicator_ = nullptr;
  for (std::vector<double>& sums : router_sums_) sums.clear();
  for (std::vector<double>& sums : layer_sums_) sums.clear();
}

void RoutingSession::share_running_loads(Communicator& communicator) {
  const bool is_wanted =
      std::any_of(balancers_.begin(), balancers_.end(),
                  [](const auto& balancer) { return balancer->traits().needs_running_counts; });
  if (!is_wanted || communicator.size() == 1) return;
  running_communicator_ = &communicator;
  running_loads_.assign(balancers_.size(), {});
  std::vector<int64_t> micro_batches(static_cast<size_t>(communicator.size()), 0);
  micro_batches[static_cast<size_t>(communicator.rank())] = micro_batches_;
  communicator.sum(std::span<int64_t>(micro_batches));
  most_micro_batches_ = *std::max_element(micro_batches.begin(), micro_batches.end());
}

void RoutingSession::share(size_t layer, LayerLoad load) {
  load.reduce(*running_communicator_);
  running_loads_[layer].add(load);
}

void RoutingSession::join_remaining_sums() {
  if (running_communicator_ == nullptr) return;
  for (int64_t i = micro_batches_; i < most_micro_batches_; ++i) {
    for (size_t layer = 0; layer < loads_.size(); ++layer) {
      LayerLoad nothing;
      nothing.counts.assign(loads_[layer].counts.size(), 0);
      nothing.unbiased.assign(loads_[layer].unbiased.size(), 0);
      share(layer, std::move(nothing));
    }
  }
  running_communicator_ = nullptr;
}

bool RoutingSession::needs_counting_pass() const {
  return (micro_batches_ > 1 || ranks_ > 1) && needs_global_counts();
}

void RoutingSession::begin_counting() {
  SLUICE_INTERNAL_CHECK(phase_ == Phase::training && !counted_, "a second counting pass");
  snapshot_.begin_saving();
  visit_state(snapshot_);
  phase_ = Phase::counting;
}

void RoutingSession::end_counting(Communicator& communicator) {
  SLUICE_INTERNAL_CHECK(counting(), "no counting pass is open");
  reduce_all(loads_, communicator);
  check_all_routed(loads_);
  counted_loads_.swap(loads_);
  clear(loads_);
  snapshot_.begin_restoring();
  visit_state(snapshot_);
  snapshot_.finish_restoring();
  phase_ = Phase::training;
  micro_batch_ = 0;
  counted_ = true;
}

void RoutingSession::begin_micro_batch(int64_t index) {
  SLUICE_INTERNAL_CHECK(index >= 0 && index < micro_batches_, "micro-batch {} of {}", index,
                        micro_batches_);
  end_micro_batch();
  micro_batch_ = index;
}

void RoutingSession::end_micro_batch() {
  if (!routed_) return;
  routed_ = false;
  ended_.clear();
  for (int64_t layer = 0; layer < layers(); ++layer) {
    const Record& place = record(layer);
    if (!place.made) return;  // finish_loads() reports it
    ended_.push_back(&place.selection);
  }
  for (const auto& balancer : balancers_) balancer->end_micro_batch(ended_);
}

void RoutingSession::finish_loads(Communicator& communicator) {
  SLUICE_INTERNAL_CHECK(phase_ == Phase::training, "loads are finished outside the ordinary pass");
  SLUICE_INTERNAL_CHECK(communicator.size() == ranks_, "{} ranks, the step began with {}",
                        communicator.size(), ranks_);
  SLUICE_INTERNAL_CHECK(counted_ || !needs_counting_pass(),
                        "the counting pass of {} micro-batches on {} ranks was left out",
                        micro_batches_, ranks_);
  end_micro_batch();
  join_remaining_sums();
  reduce_all(loads_, communicator);
  check_all_routed(loads_);
  if (communicator.size() > 1) {
    // Every rank ran the whole model, so every rank has the same sums.
    for (auto* all : {&router_sums_, &layer_sums_}) {
      for (std::vector<double>& sums : *all) {
        if (!sums.empty()) communicator.sum(std::span<double>(sums));
      }
    }
  }
  if (counted_) check_against_counting_pass();
  for (const auto& balancer : balancers_) balancer->reduce(communicator);
}

void RoutingSession::check_against_counting_pass() const {
  for (size_t layer = 0; layer < loads_.size(); ++layer) {
    SLUICE_INTERNAL_CHECK(loads_[layer] == counted_loads_[layer],
                          "expert layer {}: the counting pass found the load [{}], the ordinary "
                          "pass [{}]",
                          layer, fmt::join(counted_loads_[layer].counts, ", "),
                          fmt::join(loads_[layer].counts, ", "));
  }
}

void RoutingSession::end_step(const Progress& progress) {
  for (size_t layer = 0; layer < balancers_.size(); ++layer) {
    balancers_[layer]->end_step(loads_[layer], progress);
  }
}

RoutingSession::Record& RoutingSession::record(int64_t layer) {
  SLUICE_INTERNAL_CHECK(layer >= 0 && layer < layers(), "expert layer {} of {}", layer, layers());
  if (phase_ != Phase::training) return transient_[static_cast<size_t>(layer)];
  return journal_[static_cast<size_t>(micro_batch_ * layers() + layer)];
}

const Selection& RoutingSession::select(int64_t layer, bool replay, int64_t counted_tokens,
                                        FunctionRef<void(Balancer&, Selection&)> make) {
  Record& place = record(layer);
  if (replay) {
    SLUICE_INTERNAL_CHECK(phase_ == Phase::training && place.made,
                          "no selection of micro-batch {}, expert layer {} to replay", micro_batch_,
                          layer);
    return place.selection;
  }
  SLUICE_INTERNAL_CHECK(phase_ != Phase::training || !place.made,
                        "micro-batch {} routes twice through expert layer {}", micro_batch_, layer);
  clear(place.selection);
  make(balancer(layer), place.selection);
  place.made = true;
  if (phase_ == Phase::trial) return place.selection;
  routed_ = phase_ == Phase::training;
  auto& loads = evaluating() ? eval_loads_ : loads_;
  loads[static_cast<size_t>(layer)].add(place.selection, counted_tokens);
  if (phase_ == Phase::training && running_communicator_ != nullptr) {
    LayerLoad own;
    own.add(place.selection, counted_tokens);
    share(static_cast<size_t>(layer), std::move(own));
  }
  return place.selection;
}

const LayerLoad* RoutingSession::global_load(int64_t layer) const {
  if (phase_ != Phase::training) return nullptr;
  const auto index = static_cast<size_t>(layer);
  if (!balancers_[index]->traits().needs_global_counts) return nullptr;
  if (counted_) return &counted_loads_[index];
  return needs_counting_pass() ? nullptr : &loads_[index];
}

const LayerLoad* RoutingSession::step_load(int64_t layer) const {
  if (phase_ != Phase::training) return nullptr;
  const auto& loads = running_communicator_ == nullptr ? loads_ : running_loads_;
  return &loads[static_cast<size_t>(layer)];
}

std::span<double> RoutingSession::router_sums(int64_t layer, int64_t size) {
  SLUICE_INTERNAL_CHECK(phase_ == Phase::training, "router sums outside the ordinary pass");
  std::vector<double>& sums = router_sums_[static_cast<size_t>(layer)];
  if (sums.empty()) sums.assign(static_cast<size_t>(size), 0.0);
  SLUICE_INTERNAL_CHECK(static_cast<int64_t>(sums.size()) == size, "{} router sums, {} wanted",
                        sums.size(), size);
  return sums;
}

std::span<double> RoutingSession::layer_sums(int64_t sublayer, int64_t size) {
  if (phase_ != Phase::training) return {};
  const auto index = static_cast<size_t>(sublayer);
  if (layer_sums_.size() <= index) layer_sums_.resize(index + 1);
  std::vector<double>& sums = layer_sums_[index];
  if (sums.empty()) sums.assign(static_cast<size_t>(size), 0.0);
  SLUICE_INTERNAL_CHECK(std::ssize(sums) == size, "{} sums of sublayer {}, {} wanted", sums.size(),
                        sublayer, size);
  return sums;
}

void RoutingSession::begin_evaluation() {
  SLUICE_INTERNAL_CHECK(phase_ == Phase::training, "an evaluation begins inside {}",
                        evaluating() ? "another" : "a counting pass");
  phase_ = Phase::evaluation;
  eval_loads_.assign(balancers_.size(), {});
}

void RoutingSession::end_evaluation() {
  SLUICE_INTERNAL_CHECK(evaluating(), "no evaluation is open");
  phase_ = Phase::training;
}

void RoutingSession::reduce_eval_loads(Communicator& communicator) {
  reduce_all(eval_loads_, communicator);
}

void RoutingSession::observe(const RoutingObservation& observation) const {
  if (counting() || phase_ == Phase::trial) return;
  for (RoutingObserver* observer : observers_) observer->observe(observation);
}

RoutingWatch::RoutingWatch(RoutingSession& session, RoutingObserver& observer)
    : session_(session), observer_(&observer) {
  session_.observers_.push_back(observer_);
}

RoutingWatch::~RoutingWatch() { std::erase(session_.observers_, observer_); }

TrialScope::TrialScope(RoutingSession& session, RouteSource& source)
    : session_(session), source_(session, &source) {
  SLUICE_INTERNAL_CHECK(session.phase_ == RoutingSession::Phase::training,
                        "a trial begins outside the ordinary pass");
  session_.phase_ = RoutingSession::Phase::trial;
}

TrialScope::~TrialScope() { session_.phase_ = RoutingSession::Phase::training; }

void RoutingSession::forget_selections() {
  for (Record& place : journal_) place.made = false;
}

void RoutingSession::visit_state(StateVisitor& visitor) {
  for (size_t layer = 0; layer < balancers_.size(); ++layer) {
    const StateScope scope(visitor, std::to_string(layer));
    balancers_[layer]->visit_state(visitor);
  }
}

}  // namespace sluice
