#!/usr/bin/env bash
# Sourced by tools/test and tools/quickstart: say(), install_packages(), build(). Needs `root` set
# to the checkout.

started=${started:-$(date +%s)}

# say TEXT: one progress line with the time since the start.
say() {
  local s=$(($(date +%s) - started))
  printf '\033[1m[%02d:%02d]\033[0m %s\n' $((s / 60)) $((s % 60)) "$*"
}

# die TEXT: ends the script with what to do next.
die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# install_packages: apt-get installs what of tools/packages.txt is missing, nothing otherwise.
install_packages() {
  local wanted missing=() name sudo=()
  mapfile -t wanted < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$root/tools/packages.txt")
  for name in "${wanted[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "Missing packages and no root: run as root once, or install: ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log policy=/usr/sbin/policy-rc.d own_policy=
  log=$(mktemp)
  # Tests start servers of their own; those that come with the packages stay off, now and at boot.
  if [ ! -e $policy ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
    "${sudo[@]}" chmod 755 $policy
  fi
  {
    "${sudo[@]}" apt-get update -qq &&
      "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 || {
    [ -z "$own_policy" ] || "${sudo[@]}" rm -f $policy
    tail -n 20 "$log" >&2
    die "apt-get failed; the lines above say why ($log has the rest)."
  }
  [ -z "$own_policy" ] || "${sudo[@]}" rm -f $policy
  for name in "${missing[@]}"; do
    case $name in
      postgresql-*) "${sudo[@]}" systemctl disable --quiet postgresql ;;
      redis-server | redis-sentinel) "${sudo[@]}" systemctl disable --quiet "$name" ;;
    esac >>"$log" 2>&1 || true  # a container without systemd starts nothing at boot
  done
  rm -f "$log"
}

# build [TARGET...]: configures and builds the release preset into build/ (everything by default).
build() {
  local log=$root/build/build.log jobs targets=()
  jobs=$(nproc)
  [ $# -gt 0 ] && targets=(--target "$@")
  mkdir -p "$root/build"
  if ! (cd "$root" && cmake --preset release) >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    die "cmake could not configure ($log)."
  fi
  say "building ${*:-everything} with $jobs jobs (the first time takes minutes, later runs seconds)"
  (cd "$root" && exec cmake --build --preset release -j "$jobs" "${targets[@]}") 2>&1 | build_progress "$log"
  [ "${PIPESTATUS[0]}" -eq 0 ] || die "The build failed ($log)."
}

# Keeps the whole output in a log; shows ninja's progress every tenth step and every error.
build_progress() {
  local line last=-1 done total
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$1"
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      done=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]}
      if [ $((done * 10 / total)) -ne "$last" ]; then
        last=$((done * 10 / total))
        say "  built $done of $total"
      fi
    elif [[ $line == *error:* || $line == FAILED:* || $line == *"Error "* ]]; then
      printf '%s\n' "$line" >&2
    fi
  done
}
