#!/usr/bin/env bash
# Makes the disk and initramfs of a virtual machine for the tests. It shares nothing with this
# machine: it gets copies.
#
#   image.sh disk FILE JOB PROGRAM...    a disk with systemd and what else the tests need of this
#                                        machine's Debian packages, the source tree without the
#                                        sources, and these programs where they are here
#   image.sh initrd FILE LINUX BUSYBOX   an initramfs that finds the disk, with the modules of the
#                                        kernel that was unpacked in the directory LINUX
set -euo pipefail
shopt -s nullglob

# Debian's names; their dependencies are included.
packages=(bash coreutils dash dbus findutils grep hostname iproute2 libc-bin mount polkitd procps python3 sed
    systemd util-linux)
# Directories and files below lib/modules/VERSION/kernel: a disk on virtio, sock_diag(7), and neighbours.
modules=(drivers/virtio 'drivers/block/virtio_blk.*' fs/ext4 fs/jbd2 'fs/mbcache.*' fs/overlayfs
    'lib/crc*' 'crypto/crc32c*' 'arch/x86/crypto/crc32c*' net/unix net/ipv4
    'drivers/net/veth.*')

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# The files of the packages, as paths below /. Documentation and translations stay behind.
files() {
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "${packages[@]}" |
        grep '^[a-z0-9]' | sort -u | while read -r package; do
        # Purely virtual names have no files.
        dpkg-query --listfiles "$package" 2>/dev/null || :
    done |
        grep -vE '^/usr/share/(bash-completion|doc|i18n|info|lintian|locale|man|zsh)/|^/(boot|dev|proc|run|sys|tmp|var|\.)' |
        sort -u | while read -r file; do
        if [ -f "$file" ] || [ -L "$file" ]; then echo "${file#/}"; fi
    done
}

disk() {
    local file=$1 job=$2 source tree name
    shift 2
    source=$(realpath "$(dirname "$0")/../..")
    tree=$file.tree
    rm -rf "$tree"
    mkdir -p "$tree"/usr
    for name in bin sbin lib lib32 lib64 libx32; do
        [ ! -L /$name ] || { cp -P /$name "$tree"/ && mkdir -p "$tree/usr/$name"; }
    done
    files >"$file.files"
    tar -C / --no-recursion -T "$file.files" -cf - | tar -C "$tree" --keep-directory-symlink -xf -
    mkdir -p "$tree"/{dev,mnt,proc,root,run,sys,tmp,var/tmp,var/log,var/lib}
    chmod 1777 "$tree"/{tmp,var/tmp}
    ln -sfn ../run "$tree"/var/run
    for name in passwd group shadow gshadow polkit-1 nsswitch.conf ld.so.cache localtime protocols services; do
        [ ! -e /etc/$name ] || cp -a /etc/$name "$tree"/etc/
    done
    # The generators would make units of this machine's packages and of its fstab.
    rm -rf "$tree"/usr/lib/systemd/system-generators/*
    install -m 755 "$job" "$tree"/root/job
    mkdir -p "$tree$source"
    cp -r "$source"/{tests,units} "$tree$source"/
    for name in "$@"; do
        mkdir -p "$tree$(dirname "$name")"
        strip --strip-debug -o "$tree$name" "$name"
    done
    rm -f "$file"
    truncate --size=3G "$file" # sparse: it takes what is in it
    mkfs.ext4 -q -O ^has_journal -d "$tree" "$file"
    rm -rf "$tree" "$file.files"
}

initrd() {
    local file=$1 linux=$2 busybox tree from to path
    busybox=$(realpath "$3")
    tree=$file.tree
    rm -rf "$tree"
    from=("$linux"/lib/modules/*)
    [ ${#from[@]} = 1 ] || { echo "$linux/lib/modules should hold one kernel's modules" >&2; exit 1; }
    to=$tree/lib/modules/${from##*/}
    mkdir -p "$tree/bin" "$to"
    cp "$busybox" "$tree/bin/busybox"
    install -m 755 "$(dirname "$0")/init" "$tree/init"
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$to"/
    for path in "${modules[@]}"; do
        for path in "$from"/kernel/$path; do
            [ -e "$path" ] || continue
            mkdir -p "$(dirname "$to/${path#"$from"/}")"
            cp -r "$path" "$to/${path#"$from"/}"
        done
    done
    "$busybox" depmod -b "$tree" "${from##*/}"
    (cd "$tree" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$file"
    rm -rf "$tree"
}

case ${1:-} in
disk | initrd)
    [ $# -ge 4 ] || usage
    "$@"
    ;;
*) usage ;;
esac
