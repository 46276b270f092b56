// A cache of values of one type: a thin view over a Cache.
//
//   larder::Typed<Post, larder::JsonCodec<Post>> posts(cache);
//   posts.set("post:1", post);
//   auto got = posts.get("post:1");                      // Result<std::optional<Post>>
//   if (!got) return fail(got.status());                 // an error is not a miss
//   if (*got) show(**got);
//
// What comes back has the type and the content that was set, whatever way it took: shared memory,
// another host's event and Redis all hold the same encoded bytes, and each `get` decodes its own
// copy, so callers never share an object.
//
// Threads, fork, crash: as Cache. Lifetime: the cache must outlive the view.
// Errors: those of Cache, and of the codec. Bytes that do not decode are kCorrupt naming the key,
// never a miss; they stay in place until someone sets or removes the key.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "larder/cache.h"
#include "larder/codec.h"

namespace larder {

template <class T>
struct TypedLookup {
  Source source = Source::kNone;
  bool stale = false;      // as in Lookup
  std::optional<T> value;  // empty only on a miss

  bool hit() const noexcept { return source != Source::kNone; }
};

template <class T, Codec<T> C>
class Typed {
 public:
  using Value = T;

  explicit Typed(Cache& cache) noexcept : cache_(&cache) {}

  // The value, or nothing when there is none.
  Result<std::optional<T>> get(std::string_view key, const ReadOptions& options = {}) {
    auto found = lookup(key, options);
    if (!found) return found.status();
    return std::move(found->value);
  }

  // The same with where it came from and whether it may be out of date.
  Result<TypedLookup<T>> lookup(std::string_view key, const ReadOptions& options = {}) {
    return decoded(key, cache_->get(key, options));
  }
  // As Cache::peek.
  Result<TypedLookup<T>> peek(std::string_view key) { return decoded(key, cache_->peek(key)); }

  // As Cache's. A value that the codec cannot hold is kInvalidArgument, and nothing is written.
  Status set(std::string_view key, const T& value, std::chrono::milliseconds ttl = {}) {
    auto bytes = C::encode(value);
    if (!bytes) return bytes.status();
    return cache_->set(key, *bytes, ttl);
  }
  Status set_with_invalidate(std::string_view key, const T& value,
                             std::chrono::milliseconds ttl = {}) {
    auto bytes = C::encode(value);
    if (!bytes) return bytes.status();
    return cache_->set_with_invalidate(key, *bytes, ttl);
  }

  Status remove(std::string_view key) { return cache_->remove(key); }

 private:
  static Result<TypedLookup<T>> decoded(std::string_view key, const Result<Lookup>& found) {
    if (!found) return found.status();
    TypedLookup<T> typed{found->source, found->stale, std::nullopt};
    if (!found->hit()) return typed;
    auto value = C::decode(found->value);
    if (!value) return undecodable(key, value.status());
    typed.value.emplace(*std::move(value));
    return typed;
  }
  static Status undecodable(std::string_view key, const Status& reason) {
    std::string message = "the value of key '";
    message.append(key).append("' was not written by this codec, or is damaged: ");
    message.append(reason.message()).append("; set or remove the key");
    return {Code::kCorrupt, std::move(message)};
  }

  Cache* cache_;
};

}  // namespace larder
