// The limit: what a get costs when nothing but memory stands in its way. One hash, one line of
// index, one entry, one copy out of a plain mapping: no synchronisation, no eviction, no cache.
#pragma once
#include <sys/mman.h>
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <string>
namespace larder::bench {
class Raw {
  using Word = std::uint64_t;
  using Slot = std::uint32_t;  // 0: free; else 10 bits of the hash, 22 bits of the entry's place

 public:
  // `bytes`: of all keys and values. The values of one key have one length.
  Raw(Word keys, Word bytes) : mask_(std::bit_ceil(2 * keys) - 1) {
    while ((bytes + keys * 16) >> shift_ >= (1u << 22) - keys) ++shift_;
    const Word size = (mask_ + 1) * sizeof(Slot) + (Word{1} << (22 + shift_));
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    (void)madvise(at, size, MADV_HUGEPAGE);  // where the system has them to give
    slots_ = static_cast<Slot*>(at);
  }
  bool get(std::string_view key, std::string& into) const {
    const Slot slot = find(key, hash(key));
    if (slot == 0) return false;
    if (into.size() != *entry(slot) >> 32) into.resize(*entry(slot) >> 32);
    std::memcpy(into.data(), bytes(slot) + key.size(), into.size());
    return true;
  }
  void set(std::string_view key, std::string_view value) {
    Slot& slot = find(key, hash(key));
    if (slot == 0) {
      slot = static_cast<Slot>(hash(key) >> 54 << 22 | end_);
      *entry(slot) = value.size() << 32 | key.size();
      std::memcpy(bytes(slot), key.data(), key.size());
      end_ += ((7 + key.size() + value.size()) >> shift_) + 1;
    }
    std::memcpy(bytes(slot) + key.size(), value.data(), value.size());
  }

 private:
  static Word hash(std::string_view k) { return XXH3_64bits_withSeed(k.data(), k.size(), 7); }
  Word* entry(Slot slot) const {  // sizes of value and key; their bytes follow
    return reinterpret_cast<Word*>(slots_ + mask_ + 1) + ((slot & Word{0x3fffff}) << (shift_ - 3));
  }
  char* bytes(Slot slot) const { return reinterpret_cast<char*>(entry(slot) + 1); }
  Slot& find(std::string_view key, Word hash) const {
    for (Word i = hash & mask_;; i = (i + 1) & mask_) {
      if (slots_[i] == 0) return slots_[i];
      if (slots_[i] >> 22 != hash >> 54 || Slot(*entry(slots_[i])) != key.size()) continue;
      if (std::memcmp(bytes(slots_[i]), key.data(), key.size()) == 0) return slots_[i];
    }
  }
  Word mask_, shift_ = 3, end_ = 1;
  Slot* slots_;
};
}  // namespace larder::bench
