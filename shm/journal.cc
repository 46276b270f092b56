#include "shm/journal.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "shm/clock.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

constexpr std::array<std::string_view, kHappenings> kHappeningNames = {
    "set", "invalidate", "delete", "clear", "epoch raised", "elected", "subscribed", "lost"};
constexpr std::array<std::string_view, kEventOutcomes> kOutcomeNames = {"applied", "old",
                                                                        "deferred"};

constexpr std::uint64_t pack(Happening happening, EventOutcome outcome, std::size_t text_bytes,
                             std::uint64_t value_bytes) {
  return static_cast<std::uint64_t>(happening) << 56 | static_cast<std::uint64_t>(outcome) << 48 |
         std::min<std::uint64_t>(text_bytes, 0xffff) << 32 |
         std::min<std::uint64_t>(value_bytes, UINT32_MAX);
}

}  // namespace

std::string_view happening_name(Happening happening) noexcept {
  return kHappeningNames[static_cast<std::size_t>(happening) % kHappenings];
}
std::string_view outcome_name(EventOutcome outcome) noexcept {
  return kOutcomeNames[static_cast<std::size_t>(outcome) % kEventOutcomes];
}

Note& Journal::place_of(std::uint64_t number) const noexcept {
  return segment_.note(static_cast<std::uint32_t>(number) & (segment_.geometry().note_count - 1));
}

void Journal::note(Happening happening, EventOutcome outcome, ChangeId id, std::string_view text,
                   std::uint64_t value_bytes) noexcept {
  const std::uint64_t number = segment_.superblock().sync.noted.fetch_add(1, kRelaxed);
  Note& at = place_of(number);
  at.number.store(0, kRelaxed);
  // release: who reads any of what follows sees that the former note is gone.
  std::atomic_thread_fence(std::memory_order_release);
  at.what.store(pack(happening, outcome, text.size(), value_bytes), kRelaxed);
  at.seq.store(id.seq, kRelaxed);
  at.nonce.store(id.nonce, kRelaxed);
  at.unix_ms.store(coarse_now().unix_ms, kRelaxed);
  at.hash.store(segment_.hash(text), kRelaxed);
  const std::size_t kept = std::min(text.size(), kNoteText);
  for (std::size_t from = 0; from < kept; from += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + from, std::min<std::size_t>(kept - from, 8));
    at.text[from / 8].store(word, kRelaxed);
  }
  at.number.store(number + 1, std::memory_order_release);
}

Journal::Range Journal::range() const noexcept {
  const std::uint64_t end = segment_.superblock().sync.noted.load(std::memory_order_acquire);
  return {end - std::min<std::uint64_t>(end, segment_.geometry().note_count), end};
}

std::optional<Journal::Entry> Journal::read(std::uint64_t number) const {
  Note& at = place_of(number);
  if (at.number.load(std::memory_order_acquire) != number + 1) return std::nullopt;
  const std::uint64_t what = at.what.load(kRelaxed);
  Entry entry;
  entry.number = number;
  entry.unix_ms = at.unix_ms.load(kRelaxed);
  entry.happening = static_cast<Happening>((what >> 56) % kHappenings);
  entry.outcome = static_cast<EventOutcome>((what >> 48 & 0xff) % kEventOutcomes);
  entry.id = {at.seq.load(kRelaxed), at.nonce.load(kRelaxed)};
  entry.hash = at.hash.load(kRelaxed);
  entry.value_bytes = what & UINT32_MAX;
  entry.text_bytes = what >> 32 & 0xffff;
  std::array<std::uint64_t, kNoteText / 8> text;
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = at.text[i].load(kRelaxed);
  // acquire: a note that was begun meanwhile shows in its number.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (at.number.load(kRelaxed) != number + 1) return std::nullopt;
  entry.text.assign(reinterpret_cast<const char*>(text.data()),
                    std::min(entry.text_bytes, kNoteText));
  return entry;
}

}  // namespace larder::shm
