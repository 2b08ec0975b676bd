#!/usr/bin/env bash
# A private, real systemd: PID 1 of its own pid, mount, cgroup, network, ipc and uts
# namespaces, on a root of tmpfs with an overlay over this machine's /usr. Needs root.
#
#   sandbox.sh STATE MODE         boots it, prints "ready PID", and ends it when its own standard
#                                 input is closed: an owner that is killed leaves nothing behind.
#   sandbox.sh STATE MODE kept    the same, but it is ended by `echo >STATE/end`.
#
# STATE: a directory that does not exist yet. Its last part names the sandbox.
# MODE:  unified (cgroup2 alone) or hybrid (cgroup v1 for the controllers, which is where a
#        host with v1 has its memory accounting).
set -euo pipefail
shopt -s nullglob
state=${1:?state directory} mode=${2:?mode}
name=${state##*/}

# Where this machine has cgroup2, and the v1 hierarchies beside it.
cgroup2=/sys/fs/cgroup
[ -f $cgroup2/cgroup.controllers ] || cgroup2=/sys/fs/cgroup/unified
[ -f $cgroup2/cgroup.controllers ] || { echo "no cgroup2 is mounted on this machine" >&2; exit 1; }
v1=()
if [ "$mode" = hybrid ]; then
    for tasks in /sys/fs/cgroup/*/tasks; do
        hierarchy=${tasks%/tasks}
        v1+=("${hierarchy##*/}")
    done
fi
groups=("$cgroup2/$name" "${v1[@]/%//$name}")
for ((i = 1; i < ${#groups[@]}; i++)); do groups[i]=/sys/fs/cgroup/${groups[i]}; done

# Units that have no business in a sandbox: hardware, terminals, and above all
# systemd-tmpfiles, which empties /tmp at boot.
masked="getty.target console-getty.service systemd-logind.service systemd-udevd.service
    systemd-udev-trigger.service systemd-timesyncd.service systemd-networkd.service
    systemd-resolved.service systemd-sysctl.service systemd-update-utmp.service
    systemd-journal-flush.service systemd-initctl.socket systemd-sysusers.service
    systemd-firstboot.service systemd-random-seed.service systemd-tmpfiles-clean.timer
    systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service
    systemd-journal-catalog-update.service systemd-hwdb-update.service
    systemd-ask-password-console.path systemd-ask-password-wall.path dev-hugepages.mount
    dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount
    sys-kernel-tracing.mount sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount
    remote-fs.target modprobe@.service kmod-static-nodes.service systemd-modules-load.service"

# Runs as PID 1 of the new namespaces and becomes systemd.
inner() {
    local root=$state/root hierarchy options unit file
    : >"$state/born"
    read -r _ <"$state/go"
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 sandbox "$root"
    cd "$root"
    mkdir -p usr etc/systemd/{system,system.conf.d,journald.conf.d} var/{lib/dbus,lib/systemd,log,tmp,cache} \
        run tmp proc sys dev root mnt .usr/{upper,work}
    chmod 1777 tmp var/tmp
    ln -s ../run var/run
    for file in bin sbin lib lib32 lib64 libx32; do
        [ ! -L /$file ] || cp -P /$file .
    done
    mount -t overlay -o lowerdir=/usr,upperdir=.usr/upper,workdir=.usr/work overlay usr
    for file in passwd group shadow gshadow nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d dbus-1 ssl \
        ca-certificates alternatives localtime hosts protocols services os-release python3 python3.11 pam.d \
        security login.defs polkit-1; do
        [ ! -e /etc/$file ] || cp -a /etc/$file etc/
    done
    echo "$name" >etc/hostname
    hostname "$name"
    : >etc/fstab
    tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
    for unit in $masked; do ln -s /dev/null "etc/systemd/system/$unit"; done
    printf '[Unit]\nRequires=basic.target dbus.service\nAfter=basic.target dbus.service\nAllowIsolate=yes\n' \
        >etc/systemd/system/sandbox.target
    printf '[Manager]\nDefaultCPUAccounting=yes\nDefaultMemoryAccounting=yes\nDefaultTimeoutStopSec=10s\n' \
        >etc/systemd/system.conf.d/sandbox.conf
    printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\nReadKMsg=no\nAudit=no\n' \
        >etc/systemd/journald.conf.d/sandbox.conf
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount --bind /proc/sys/net proc/sys/net 2>/dev/null || :
    mount -t sysfs sysfs sys
    if [ "$mode" = hybrid ]; then
        mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
        mkdir sys/fs/cgroup/unified
        mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
        for hierarchy in "${v1[@]}"; do
            mkdir "sys/fs/cgroup/$hierarchy"
            options=$hierarchy
            [ "$hierarchy" != systemd ] || options=none,name=systemd
            mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$hierarchy"
        done
    else
        mount -t cgroup2 cgroup2 sys/fs/cgroup
    fi
    mount -t bpf bpf sys/fs/bpf
    mount -o remount,bind,ro sys # udev and the like skip themselves; what is mounted in it stays writable
    mount -t tmpfs -o mode=755 dev dev
    mkdir dev/{pts,shm}
    for file in null zero full random urandom tty; do
        : >dev/$file
        mount --bind /dev/$file dev/$file
    done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    mount -t tmpfs -o mode=1777 shm dev/shm
    ln -s /proc/self/fd dev/fd
    for file in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${file%:*}" "dev/${file#*:}"; done
    mount -t tmpfs -o mode=755 run run
    mkdir -p run/lock
    pivot_root . mnt
    cd /
    umount -l /mnt
    ip link set lo up
    exec env -i container=sandbox PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /usr/lib/systemd/systemd --system --unit=sandbox.target --show-status=no </dev/null
}

init=
clean_up() {
    if [ -n "$init" ]; then
        kill -KILL "$init" 2>/dev/null || : # the pid namespace dies with it, and its mounts
        while [ -d "/proc/$init" ]; do sleep 0.01; done
    fi
    local group
    for group in "${groups[@]}"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
    done
    rm -rf "$state"
}

if [ "${3:-}" = inner ]; then
    inner
fi

mkdir -p "$state/root"
trap clean_up EXIT
trap 'exit 1' TERM INT
mkfifo "$state/go" "$state/end"
for group in "${groups[@]}"; do
    mkdir "$group"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -f "$group/$file" ] || cat "${group%/*}/$file" >"$group/$file" 2>/dev/null || :
    done
done
(
    for group in "${groups[@]}"; do echo "$BASHPID" >"$group/cgroup.procs"; done
    exec setsid unshare --mount --pid --cgroup --ipc --uts --net --fork --kill-child=KILL -- \
        "$0" "$state" "$mode" inner
) >"$state/log" 2>&1 </dev/null &
outer=$!
fail() {
    echo "the private systemd did not boot: $1" >&2
    cat "$state/log" >&2
    exit 1
}
for ((tries = 0; tries < 1000; tries++)); do
    [ ! -e "$state/born" ] || break
    [ -d /proc/$outer ] || fail "unshare ended"
    sleep 0.01
done
read -r init _ <"/proc/$outer/task/$outer/children" || : # the file has no final newline
# unshare itself steps out again: in its cgroup it would be in the way of controllers.
for group in "${groups[@]}"; do echo $outer >"${group%/*}/cgroup.procs"; done
echo go >"$state/go"
for ((tries = 0; tries < 600; tries++)); do
    [ -d "/proc/$init" ] || fail "PID 1 ended"
    system=$(DBUS_SYSTEM_BUS_ADDRESS=unix:path=/proc/$init/root/run/dbus/system_bus_socket \
        busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 \
        org.freedesktop.systemd1.Manager SystemState 2>/dev/null || :)
    case $system in
    *running* | *degraded*)
        echo "ready $init"
        if [ "${3:-}" = kept ]; then
            read -r _ <"$state/end" || :
        else
            read -r _ || : # until the owner closes the pipe
        fi
        exit 0
        ;;
    esac
    sleep 0.05
done
fail "after 30 s its state is '$system'"
