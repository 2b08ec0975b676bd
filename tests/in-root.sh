#!/usr/bin/env bash
# Runs a program of this source tree on another distribution: in a mount namespace of its own, whose
# root is DIR. It contains nothing of this machine except the source tree, the program's directory,
# /sys and /dev. Needs root.
#
#   in-root.sh DIR PROGRAM ARGUMENTS...
#
# DIR: a whole root file system, as debootstrap makes it.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
root=$(realpath "$1") program=$(realpath "$2")
tree=$(realpath "$(dirname "$0")/..")
shift 2

export tree root program PWD
exec unshare --mount --propagation private -- bash -euc '
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    for directory in /sys /dev; do mount --rbind "$directory" "$root$directory"; done
    for directory in /run /tmp; do mount -t tmpfs tmpfs "$root$directory"; done
    for directory in "$tree" "$(dirname "$program")"; do
        mkdir -p "$root$directory"
        mount --rbind "$directory" "$root$directory"
    done
    mkdir -p "$root/tmp/old"
    here=$PWD
    cd "$root"
    # Not chroot(2): a process that enters the namespace would be outside of it.
    pivot_root . tmp/old
    cd "$here"
    umount -l /tmp/old
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec "$program" "$@"
' in-root.sh "$@"
