#include "train/checkpoint/image.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "autograd/support/copy.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "train/checkpoint/layout.h"
#include "train/checkpoint/user_block.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<CheckpointError>;

/// Shows every field to a function.
class FieldVisitor final : public StateVisitor {
 public:
  explicit FieldVisitor(FunctionRef<void(const StateField&)> body) : body_(body) {}

 protected:
  void visit(const StateField& field) override { body_(field); }

 private:
  FunctionRef<void(const StateField&)> body_;
};

}  // namespace

/// An array of the state and its place in the file.
struct CheckpointImage::Field {
  std::string path;
  ElementType type = ElementType::f32;
  std::vector<int64_t> dims;
  int64_t offset = -1;
  bool copied = false;
};

void CheckpointImage::take_memory(int64_t bytes) {
  if (bytes <= memory_bytes_) return;
  memory_ = BlockRef();
  pool_.trim();
  memory_bytes_ = 0;
  // A multiple of the alignment at any size; pool blocks this large start at one.
  constexpr int64_t kLeast = int64_t{4} << 20;
  const int64_t taken = std::max(bytes, kLeast);
  memory_ = pool_.allocate(taken, MemoryKind::optimizer);
  memory_bytes_ = taken;
}

void CheckpointImage::reserve(int64_t state_bytes) {
  take_memory(state_bytes + kLayoutBytes);
  constexpr int64_t kRange = int64_t{1} << 20;
  parallel_for_ranges(memory_bytes_, kRange, [&](int64_t begin, int64_t end) {
    std::memset(memory_.data() + begin, 0, static_cast<size_t>(end - begin));
  });
}

void CheckpointImage::lay_out(const std::string& name, const CheckpointMeta& meta,
                              std::vector<Field>& fields) {
  std::ranges::sort(fields, {}, &Field::path);
  const auto twice = std::ranges::adjacent_find(fields, {}, &Field::path);
  SLUICE_INTERNAL_CHECK(twice == fields.end(), "the state names {} twice", twice->path);
  auto outline = hdf5::File::create_outline(name, kRaise, kUserBlockBytes);
  write_meta(outline, meta);
  for (Field& field : fields) {
    field.offset = outline.reserve("/" + field.path, field.type, field.dims);
  }
  file_bytes_ = outline.finish();
  take_memory(file_bytes_);
  outline.copy_to(bytes());
}

void CheckpointImage::fill(const std::string& name, const CheckpointMeta& meta,
                           FunctionRef<void(StateVisitor&)> visit_state) {
  std::vector<Field> fields;
  const auto collect = [&](const StateField& field) {
    fields.push_back({field.path, field.type, {field.dims.begin(), field.dims.end()}});
  };
  FieldVisitor collecting(collect);
  visit_state(collecting);
  lay_out(name, meta, fields);

  const auto place = [&](const StateField& field) {
    const auto found = std::ranges::lower_bound(fields, field.path, {}, &Field::path);
    const bool is_same = found != fields.end() && found->path == field.path &&
                         std::ranges::equal(found->dims, field.dims) && !found->copied;
    SLUICE_INTERNAL_CHECK(is_same, "{} changed while it was saved", field.path);
    found->copied = true;
    if (found->offset >= 0) copy_streaming(field.bytes, bytes().data() + found->offset);
  };
  FieldVisitor placing(place);
  visit_state(placing);
  SLUICE_INTERNAL_CHECK(std::ranges::all_of(fields, &Field::copied),
                        "the state lost an array while it was saved");
}

void CheckpointImage::fill(const std::string& name, const Checkpoint& checkpoint) {
  std::vector<Field> fields;
  for (const auto& [path, array] : checkpoint.state) {
    fields.push_back({path, array.type, array.dims});
  }
  lay_out(name, checkpoint.meta, fields);
  for (const Field& field : fields) {
    if (field.offset < 0) continue;
    copy_streaming(checkpoint.state.find(field.path)->second.bytes, bytes().data() + field.offset);
  }
}

void CheckpointImage::fill(const std::string& name, const CheckpointMeta& meta,
                           std::span<const StateArrayShape> arrays,
                           FunctionRef<void(size_t, std::span<std::byte>)> write) {
  std::vector<Field> fields;
  for (const StateArrayShape& array : arrays) {
    fields.push_back({array.path, array.type, array.dims});
  }
  lay_out(name, meta, fields);
  std::vector<std::max_align_t> aligned;  // small arrays may lie at any byte of the file
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto field = std::ranges::lower_bound(fields, arrays[i].path, {}, &Field::path);
    if (field->offset < 0) continue;
    const hdf5::DatasetInfo info{arrays[i].type, arrays[i].dims};
    const auto size = static_cast<size_t>(info.numel() * size_of(info.type));
    const std::span<std::byte> place = bytes().subspan(static_cast<size_t>(field->offset), size);
    if (field->offset % static_cast<int64_t>(alignof(std::max_align_t)) == 0) {
      write(i, place);
      continue;
    }
    aligned.resize(size / sizeof(std::max_align_t) + 1);
    const std::span<std::byte> made(reinterpret_cast<std::byte*>(aligned.data()), size);
    write(i, made);
    std::memcpy(place.data(), made.data(), size);
  }
}

std::span<const std::byte> CheckpointImage::bytes() const {
  return {memory_.data(), static_cast<size_t>(file_bytes_)};
}
std::span<std::byte> CheckpointImage::bytes() {
  return {memory_.data(), static_cast<size_t>(file_bytes_)};
}
int64_t CheckpointImage::memory_bytes() const { return memory_bytes_; }

void write_checkpoint(FileSystem& files, const std::filesystem::path& path,
                      CheckpointImage& image) {
  const std::span<std::byte> file = image.bytes();
  const UserBlock block = make_user_block(file.subspan(kUserBlockBytes));
  std::ranges::copy(block, file.begin());
  write_large_file_atomically(files, path, file, kRaise);
}

}  // namespace sluice
