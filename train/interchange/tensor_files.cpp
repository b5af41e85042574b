#include "train/interchange/tensor_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int64_t kMaxElements = int64_t{1} << 48;

std::string reason(int error) { return std::generic_category().message(error); }

}  // namespace

std::optional<int64_t> checked_numel(std::span<const int64_t> dims) {
  int64_t product = 1;
  bool is_empty = false;
  for (const int64_t dim : dims) {
    if (dim < 0 || dim > kMaxElements) return std::nullopt;
    if (dim == 0) {
      is_empty = true;
      continue;
    }
    if (__builtin_mul_overflow(product, dim, &product) || product > kMaxElements) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : product;
}

int64_t StoredTensor::numel() const { return checked_numel(dims).value_or(0); }

InputFile::InputFile(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  SLUICE_CHECK(CheckpointError, descriptor_ >= 0, "{}: cannot open: {}", name(), reason(errno));
  struct stat status {};
  const int error = ::fstat(descriptor_, &status) < 0 ? errno : 0;
  if (error != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw CheckpointError(
        fmt::format("{}: {}", name(), error != 0 ? reason(error) : std::string("is no file")));
  }
  bytes_ = status.st_size;
  (void)::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(int64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t count = ::pread(descriptor_, into.data(), into.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    SLUICE_CHECK(CheckpointError, count >= 0, "{}: cannot read: {}", name(), reason(errno));
    SLUICE_CHECK(CheckpointError, count > 0, "{}: truncated: it ends at byte {}, {} are missing",
                 name(), offset, into.size());
    into = into.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

size_t TensorFiles::add(std::unique_ptr<InputFile> file) {
  files_.push_back(std::move(file));
  return files_.size() - 1;
}

void TensorFiles::add(StoredTensor tensor) {
  const auto [place, is_new] = tensors_.try_emplace(tensor.name);
  SLUICE_CHECK(CheckpointError, is_new, "{}: the tensor stands in {} as well", where(tensor),
               files_[place->second.file]->name());
  place->second = std::move(tensor);
}

const StoredTensor* TensorFiles::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::string TensorFiles::where(const StoredTensor& tensor) const {
  return fmt::format("{}: {}", files_[tensor.file]->name(), tensor.name);
}

void TensorFiles::read(const StoredTensor& tensor, int64_t first, std::span<float> values) const {
  const InputFile& from = *files_[tensor.file];
  if (tensor.type == StoredType::f32) {
    from.read(tensor.offset + 4 * first, std::as_writable_bytes(values));
    return;
  }
  const int64_t block = block_elements(tensor.type);
  const int64_t blocks_at_a_time = kPieceBytes / block_bytes(tensor.type);
  std::vector<std::byte> stored;
  std::vector<float> decoded;
  const int64_t end = first + static_cast<int64_t>(values.size());
  for (int64_t at = first / block; at * block < end; at += blocks_at_a_time) {
    const int64_t count = std::min(blocks_at_a_time, (end + block - 1) / block - at);
    stored.resize(static_cast<size_t>(count * block_bytes(tensor.type)));
    decoded.resize(static_cast<size_t>(count * block));
    from.read(tensor.offset + at * block_bytes(tensor.type), stored);
    decode(tensor.type, stored, decoded);
    const int64_t begin = std::max(first, at * block);
    const int64_t stop = std::min(end, (at + count) * block);
    std::copy(decoded.begin() + (begin - at * block), decoded.begin() + (stop - at * block),
              values.begin() + (begin - first));
  }
}

}  // namespace sluice
