# Shared by the commands in tools/. Source it; it changes to the root of the checkout.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# ---- cleaning up ---------------------------------------------------------------------------------

# Commands to run when the script ends, the last one first.
exit_commands=()
at_exit() { exit_commands+=("$*"); }
# shellcheck disable=SC2317  # called by the trap
run_exit_commands() {
  local code=$? i
  for ((i = ${#exit_commands[@]} - 1; i >= 0; i--)); do eval "${exit_commands[i]}" || true; done
  exit "$code"
}
trap run_exit_commands EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- packages ------------------------------------------------------------------------------------

# shellcheck disable=SC2034  # the lists are for the scripts that source this file
{
  build_packages=(g++ meson ninja-build pkg-config python3 libboost-dev libhiredis-dev libevent-dev
    libmsgpack-cxx-dev nlohmann-json3-dev libcli11-dev libxxhash-dev libzstd-dev)
  run_packages=(redis-server redis-tools curl)
  test_packages=(doctest-dev)
  # libFuzzer, and what reads its coverage.
  fuzz_packages=(clang-16 libclang-rt-16-dev llvm-16)
  # What larder-bench compares with; left out where they are missing.
  bench_packages=(liblmdb-dev libmemcached-dev memcached)
  lint_packages=(git clang-format clang-tidy shellcheck ccache)
}

missing_packages() {
  local package state
  for package in "$@"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=none
    [[ $state == installed ]] || printf '%s\n' "$package"
  done
}

# Package scripts must not start a service. The file exists for the installation only.
forbid_service_starts() {
  local policy=/usr/sbin/policy-rc.d
  [[ -e $policy ]] && return
  at_exit "rm -f $policy"
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# Installs what is missing as root; prints the command and stops otherwise.
ensure_packages() {
  local -a missing
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: install by hand what these packages hold, if it is missing: $*"
    return 0
  fi
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    say "These packages are missing. Install them, then start again:"
    say "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
    exit 1
  fi
  say "installing ${missing[*]}"
  # In a subshell, so that the policy file goes as soon as the installation is over.
  (
    exit_commands=()
    trap run_exit_commands EXIT
    forbid_service_starts
    apt-cache show "${missing[@]}" >/dev/null 2>&1 || apt-get update -q
    # Once more with fresh lists: old ones name files that the mirrors no longer have.
    apt_install "${missing[@]}" || { apt-get update -q && apt_install "${missing[@]}"; }
    # Nor shall it start at the next boot: nobody asked for a server of the system.
    if [[ " ${missing[*]} " == *" redis-server "* ]] && command -v systemctl >/dev/null; then
      systemctl disable --quiet redis-server || true
    fi
  )
}

# ---- building ------------------------------------------------------------------------------------

# configure DIR MESON-ARGUMENT...: set up or set up again with these arguments.
configure() {
  local dir=$1
  shift
  if [[ -z ${CXX:-} ]] && command -v ccache >/dev/null; then export CXX='ccache g++'; fi
  # What is compiled is the same with and without it.
  export CCACHE_IGNOREOPTIONS=-Werror
  if [[ -f $dir/build.ninja ]]; then
    meson configure "$dir" "$@"
  else
    meson setup "$dir" "$@"
  fi
}

build_release() {
  configure build/release -Dbuildtype=release -Dtests=false
  meson compile -C build/release
}

# ---- Redis ---------------------------------------------------------------------------------------

# A TCP port of the loopback that nobody listens on now.
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

declare -A redis_pid redis_dir

# start_redis PORT [REDIS-OPTION...]: a server of our own on 127.0.0.1:PORT, without persistence,
# in a temporary directory. It ends with the script at the latest.
start_redis() {
  local port=$1 dir tries
  shift
  [[ -z ${redis_pid[$port]:-} ]] || die "our Redis on port $port was started before"
  dir=$(mktemp -d /tmp/larder-redis-XXXXXX)
  redis_dir[$port]=$dir
  redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --save '' --appendonly no \
    --daemonize no "$@" >"$dir/log" 2>&1 &
  redis_pid[$port]=$!
  at_exit "stop_redis $port"
  for ((tries = 0; tries < 100; tries++)); do
    # The server that answers must be ours, not one that took the port before.
    if timeout 2 redis-cli -p "$port" info server 2>/dev/null |
      grep -q "process_id:${redis_pid[$port]}[^0-9]"; then
      return 0
    fi
    kill -0 "${redis_pid[$port]}" 2>/dev/null || break
    sleep 0.05
  done
  cat "$dir/log" >&2
  die "redis-server did not start on port $port; its log is above"
}

# stop_redis PORT: does nothing when it does not run.
stop_redis() {
  local port=$1
  if [[ -n ${redis_pid[$port]:-} ]]; then
    kill -TERM "${redis_pid[$port]}" 2>/dev/null || true
    kill -CONT "${redis_pid[$port]}" 2>/dev/null || true  # it may stand still
    wait "${redis_pid[$port]}" 2>/dev/null || true
    rm -rf "${redis_dir[$port]}"
    unset "redis_pid[$port]" "redis_dir[$port]"
  fi
}
