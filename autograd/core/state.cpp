#include "autograd/core/state.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "autograd/support/checksum.h"
#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice {
namespace {

std::string shape_text(std::span<const int64_t> dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

uint64_t hash_of(const StateField& field) {
  Xxh64 hash;
  const auto type = static_cast<std::byte>(field.type);
  hash.update({&type, 1});
  // The rank keeps [2] of a scalar's bytes apart from [2, 1].
  const int64_t rank = static_cast<int64_t>(field.dims.size());
  hash.update(std::as_bytes(std::span<const int64_t>(&rank, 1)));
  hash.update(std::as_bytes(field.dims));
  hash.update(field.bytes);
  return hash.digest();
}

}  // namespace

int64_t StateArray::numel() const { return static_cast<int64_t>(bytes.size()) / size_of(type); }

void StateArray::check_type(ElementType wanted) const {
  SLUICE_CHECK(CheckpointError, type == wanted, "array is {}, expected {}", name_of(type),
               name_of(wanted));
}

const std::string& StateVisitor::path_of(std::string_view name) {
  path_.assign(prefix_).append(name);
  return path_;
}

void StateVisitor::tensor(std::string_view name, Tensor& value) {
  const std::string& path = path_of(name);
  SLUICE_INTERNAL_CHECK(value.defined(), "{}: the state names an undefined tensor", path);
  visit({path, element_type(value.dtype()), value.shape().dims(), value.raw()});
}

void StateVisitor::text(std::string_view name, std::string& value) {
  const int64_t size = static_cast<int64_t>(value.size());
  const auto resize = [&value](int64_t count) {
    value.resize(static_cast<size_t>(count));
    return std::as_writable_bytes(std::span<char>(value));
  };
  const FunctionRef<std::span<std::byte>(int64_t)> resize_ref = resize;
  visit({path_of(name), ElementType::u8, std::span<const int64_t>(&size, 1),
         std::as_writable_bytes(std::span<char>(value)), &resize_ref});
}

StateScope::StateScope(StateVisitor& visitor, std::string_view name)
    : visitor_(visitor), outer_size_(visitor.prefix_.size()) {
  visitor_.prefix_.append(name).push_back('/');
}

StateScope::~StateScope() { visitor_.prefix_.resize(outer_size_); }

void SaveVisitor::visit(const StateField& field) {
  StateArray array{
      field.type, {field.dims.begin(), field.dims.end()}, {field.bytes.begin(), field.bytes.end()}};
  const bool inserted = state_.emplace(field.path, std::move(array)).second;
  SLUICE_INTERNAL_CHECK(inserted, "the state names {} twice", field.path);
}

void StateSnapshot::begin_saving() {
  bytes_.clear();
  ends_.clear();
  restoring_ = false;
}

void StateSnapshot::begin_restoring() {
  next_ = 0;
  restoring_ = true;
}

void StateSnapshot::visit(const StateField& field) {
  if (!restoring_) {
    bytes_.insert(bytes_.end(), field.bytes.begin(), field.bytes.end());
    ends_.push_back(bytes_.size());
    return;
  }
  SLUICE_INTERNAL_CHECK(next_ < ends_.size(), "{} was not saved", field.path);
  const size_t begin = next_ == 0 ? 0 : ends_[next_ - 1];
  const auto saved = std::span<const std::byte>(bytes_).subspan(begin, ends_[next_] - begin);
  ++next_;
  const std::span<std::byte> target =
      field.resize == nullptr
          ? field.bytes
          : (*field.resize)(static_cast<int64_t>(saved.size()) / size_of(field.type));
  SLUICE_INTERNAL_CHECK(target.size() == saved.size(), "{}: {} bytes were saved of {}", field.path,
                        saved.size(), target.size());
  std::ranges::copy(saved, target.begin());
}

void StateSnapshot::finish_restoring() const {
  SLUICE_INTERNAL_CHECK(next_ == ends_.size(), "{} of {} saved arrays were given back", next_,
                        ends_.size());
}

LoadVisitor::LoadVisitor(const StateDict& state, std::string source, LoadOptions options)
    : state_(state), source_(std::move(source)), options_(std::move(options)) {}

bool LoadVisitor::wanted(std::string_view path) const {
  return options_.wanted == nullptr || options_.wanted(path);
}

void LoadVisitor::visit(const StateField& field) {
  if (!wanted(field.path)) return;
  visited_.insert(field.path);
  const auto found = state_.find(field.path);
  if (found == state_.end()) {
    differences_.push_back(fmt::format("/{} is missing", field.path));
    return;
  }
  const StateArray& array = found->second;
  if (array.type != field.type) {
    differences_.push_back(fmt::format("/{} is {}, the model expects {}", field.path,
                                       name_of(array.type), name_of(field.type)));
    return;
  }
  const bool is_list = field.resize != nullptr && array.dims.size() == 1;
  if (!is_list && !std::ranges::equal(array.dims, field.dims)) {
    differences_.push_back(fmt::format("/{} is {}, the model expects {}", field.path,
                                       shape_text(array.dims), shape_text(field.dims)));
    return;
  }
  const std::span<std::byte> target = is_list ? (*field.resize)(array.dims[0]) : field.bytes;
  SLUICE_INTERNAL_CHECK(target.size() == array.bytes.size(), "{}: {} bytes for {}", field.path,
                        array.bytes.size(), target.size());
  std::ranges::copy(array.bytes, target.begin());
  ++loaded_;
}

void LoadVisitor::finish() {
  for (const auto& [path, array] : state_) {
    if (wanted(path) && !visited_.contains(path)) {
      differences_.push_back(
          fmt::format("/{} {} has no place in the model", path, shape_text(array.dims)));
    }
  }
  if (differences_.empty()) return;
  const size_t others = differences_.size() - 1;
  throw CheckpointError(fmt::format(
      "{}: {}{}", source_, differences_.front(),
      others == 0 ? ""
                  : fmt::format(" (and {} more difference{})", others, others == 1 ? "" : "s")));
}

void HashVisitor::visit(const StateField& field) {
  const bool inserted = hashes_.emplace(field.path, hash_of(field)).second;
  SLUICE_INTERNAL_CHECK(inserted, "the state names {} twice", field.path);
}

uint64_t HashVisitor::combined() const {
  Xxh64 hash;
  for (const auto& [path, value] : hashes_) {
    hash.update(bytes_of(path));
    hash.update(std::as_bytes(std::span<const uint64_t>(&value, 1)));
  }
  return hash.digest();
}

void CountVisitor::visit(const StateField& field) {
  const size_t slash = field.path.find('/');
  Count& scope = scopes_[slash == std::string::npos ? "" : field.path.substr(0, slash)];
  const auto bytes = static_cast<int64_t>(field.bytes.size());
  for (Count* count : {&total_, &scope}) {
    count->arrays += 1;
    count->elements += bytes / size_of(field.type);
    count->bytes += bytes;
  }
}

}  // namespace sluice
