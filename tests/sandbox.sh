#!/usr/bin/env bash
# A private, real systemd: PID 1 of its own pid, mount, cgroup, network, ipc and uts
# namespaces, on a root of tmpfs with an overlay over this machine's /usr. Needs root.
# No directory of this machine is writable in it.
#
#   sandbox.sh STATE MODE         boots it, prints "ready PID", and ends it when its own standard
#                                 input is closed: an owner that is killed leaves nothing behind.
#   sandbox.sh STATE MODE kept    the same, but it is ended by `echo >STATE/end`.
#   sandbox.sh enter STATE COMMAND...
#                                 runs COMMAND inside, in a cgroup of the sandbox; killing this
#                                 process kills COMMAND.
#
# STATE: a directory that does not exist yet. Its last part names the sandbox.
# MODE:  unified (cgroup2 alone) or hybrid (cgroup v1 for the controllers, which is where a
#        host with v1 has its memory accounting).
# SANDBOX_NO_OVERLAY=1 does without overlayfs, as on a kernel that has none.
# ONDEMAND_TEST_PATIENCE=N gives it N minutes to boot, as on an emulated machine.
set -euo pipefail
shopt -s nullglob

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# Where this machine has cgroup2, and the v1 hierarchies beside it: the sandbox's own group in
# each is the root of its cgroup namespace.
find_groups() {
    cgroup2=/sys/fs/cgroup
    [ -f $cgroup2/cgroup.controllers ] || cgroup2=/sys/fs/cgroup/unified
    [ -f $cgroup2/cgroup.controllers ] || {
        echo "no cgroup2 is mounted on this machine" >&2
        exit 1
    }
    local tasks
    v1=()
    if [ "$mode" = hybrid ]; then
        for tasks in /sys/fs/cgroup/*/tasks; do
            # A link, as cpu -> cpu,cpuacct, names a hierarchy a second time.
            [ -L "${tasks%/tasks}" ] || v1+=("$(basename "${tasks%/tasks}")")
        done
    fi
    groups=("$cgroup2/$name" "${v1[@]/#//sys/fs/cgroup/}")
    local i
    for ((i = 1; i < ${#groups[@]}; i++)); do groups[i]+=/$name; done
}

# As PID 1 of the new namespaces: into the sandbox's groups. Nothing else may be in them,
# because cgroup2 requires empty inner nodes. Then a cgroup namespace starts here.
join() {
    local pid group
    # This /proc is still the machine's, so it shows this process's pid on the machine.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$state/pid"
    for group in "${groups[@]}"; do echo 0 >"$group/cgroup.procs"; done
    exec unshare --cgroup -- "$0" init "$state" "$mode"
}

# Builds the root and becomes systemd.
init() {
    local root=$state/root file
    if [ "$mode" = hybrid ] && [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 258 ]; then
        echo "systemd 258 and later know no cgroup v1, which is where this machine accounts memory" >&2
        exit 1
    fi
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 sandbox "$root"
    cd "$root"
    mkdir -p etc/systemd/{system,system.conf.d,journald.conf.d} var/{lib/dbus,lib/systemd,log,tmp,cache} \
        run tmp proc sys dev root mnt
    chmod 1777 tmp var/tmp
    ln -s ../run var/run
    for file in bin sbin lib lib32 lib64 libx32; do
        [ ! -L /$file ] || cp -P /$file .
    done
    make_usr
    make_etc
    make_proc_and_sys
    make_dev
    mount -t tmpfs -o mode=755 run run
    mkdir -p run/lock run/host
    : >run/host/ready
    mount --bind "$state/ready" run/host/ready
    pivot_root . mnt
    cd /
    umount -l /mnt
    ip link set lo up
    exec env -i container=sandbox PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /usr/lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal
}

# This machine's /usr, writable: changes stay in memory and end with the sandbox.
make_usr() {
    mkdir -p usr .usr/{upper,work}
    if [ -n "${SANDBOX_NO_OVERLAY:-}" ] ||
        ! mount -t overlay -o lowerdir=/usr,upperdir=.usr/upper,workdir=.usr/work overlay usr; then
        make_usr_of_links
    fi
    # Only these are started at boot, whatever this machine has installed. Above all not
    # systemd-tmpfiles, which empties /tmp.
    local units=usr/lib/systemd/system
    rm -rf $units/*.target.wants usr/lib/systemd/system-generators/*
    mkdir $units/{sysinit,sockets,multi-user}.target.wants
    ln -s ../systemd-journald.service $units/sysinit.target.wants/
    ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket ../dbus.socket \
        $units/sockets.target.wants/
    ln -s ../dbus.service ../sandbox-ready.service $units/multi-user.target.wants/
    printf '[Unit]\nAfter=dbus.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo ready >/run/host/ready"\n' \
        >$units/sandbox-ready.service
    # This machine may have it installed.
    rm -f usr/bin/ondemand $units/ondemand*.service usr/share/dbus-1/system.d/org.ondemand1.conf \
        usr/share/polkit-1/actions/org.ondemand1.policy
}

# Without overlayfs: links into a read-only /usr, and real directories where things are installed.
make_usr_of_links() {
    mkdir .usr/host
    mount --bind /usr .usr/host
    mount -o remount,bind,ro .usr/host
    local dir entries
    for dir in . bin lib lib/systemd local local/bin share share/dbus-1; do
        [ ! -L "usr/$dir" ] || rm "usr/$dir"
        mkdir -p "usr/$dir"
        entries=(.usr/host/"$dir"/*)
        ln -sfn -t "usr/$dir" "${entries[@]/#//}"
    done
    # systemd and dbus-daemon treat a link in these differently from a file.
    for dir in lib/systemd/system lib/systemd/system-generators share/dbus-1/system.d; do
        rm -f "usr/$dir"
        cp -a "/usr/$dir" "usr/$dir"
    done
}

make_etc() {
    local file
    for file in passwd group shadow gshadow nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d dbus-1 ssl \
        ca-certificates alternatives localtime protocols services os-release mime.types pam.d security \
        login.defs polkit-1; do
        [ ! -e /etc/$file ] || cp -a /etc/$file etc/
    done
    rm -f etc/polkit-1/rules.d/50-ondemand.rules
    for file in /etc/python3*; do cp -a "$file" etc/; done
    echo "$name" >etc/hostname
    hostname "$name"
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$name" >etc/hosts
    : >etc/fstab
    tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
    # Where dbus-broker is the message bus, this link selects it.
    [ ! -L /etc/systemd/system/dbus.service ] || cp -P /etc/systemd/system/dbus.service etc/systemd/system/
    printf '[Manager]\nDefaultCPUAccounting=yes\nDefaultMemoryAccounting=yes\nDefaultTimeoutStopSec=10s\n' \
        >etc/systemd/system.conf.d/sandbox.conf
    printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\nReadKMsg=no\nAudit=no\n' \
        >etc/systemd/journald.conf.d/sandbox.conf
}

make_proc_and_sys() {
    mount -t proc proc proc
    # Read-only except the settings of the network, which is the sandbox's own.
    mount --bind proc/sys proc/sys
    mount --bind proc/sys/net proc/sys/net
    mount -o remount,bind,ro proc/sys
    mount -t sysfs sysfs sys
    if [ "$mode" = hybrid ]; then
        local hierarchy options
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
    mount -t bpf -o mode=700 bpf sys/fs/bpf # as systemd mounts it
    mount -o remount,bind,ro sys # udev and the like skip themselves; what is mounted in it stays writable
}

make_dev() {
    local file
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
}

# The pid namespace dies with its PID 1, the mounts and the network with the last process.
clean_up() {
    local group pid
    set +e
    kill $(jobs -p) 2>/dev/null
    # Also ends entered processes; kernels before 5.14 have only the second way.
    echo 1 2>/dev/null >"$cgroup2/$name/cgroup.kill"
    pid=$(cat "$state/pid" 2>/dev/null) && kill -KILL "$pid" 2>/dev/null
    wait
    for group in "${groups[@]}"; do
        # A process that was killed leaves its group a moment later.
        for _ in {1..500}; do
            [ -d "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.01
        done
    done
    rm -rf "$state"
}

fail() {
    echo "the private systemd did not boot: $1" >&2
    cat "$state/log" >&2
    exit 1
}

boot() {
    local group file outer tries patience=${ONDEMAND_TEST_PATIENCE:-1}
    mkdir -p "$state/root"
    trap clean_up EXIT
    trap 'exit 1' TERM INT
    echo "$mode" >"$state/mode"
    mkfifo "$state/ready" "$state/end"
    for group in "${groups[@]}"; do
        mkdir "$group"
        # A group of cpuset v1 takes no process before it has processors and memory nodes.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -f "$group/$file" ] || cat "${group%/*}/$file" >"$group/$file" 2>/dev/null || :
        done
    done
    exec 3<&0 4<>"$state/ready"
    # A session of its own: a Ctrl-C on the terminal goes to this script, which ends it in order.
    setsid unshare --mount --pid --ipc --uts --net --fork --kill-child=KILL -- \
        "$0" join "$state" "$mode" >"$state/log" 2>&1 3<&- 4<&- </dev/null &
    outer=$!
    for ((tries = 0; ; tries++)); do
        read -r -t 0.5 -u 4 _ && break
        [ -d /proc/$outer ] || fail "PID 1 ended"
        [ $tries -lt $((120 * patience)) ] || fail "not ready after $((60 * patience)) s"
    done
    echo "ready $(cat "$state/pid")"
    # The reader may be gone: a message of bash 5.3 about killed jobs would end this script.
    exec >/dev/null 2>&1

    # Waits for the first of: PID 1 ends, the owner requests the end, the owner dies.
    if [ -n "$kept" ]; then
        cat "$state/end" 3<&- 4<&- &
    else
        cat <&3 >/dev/null 4<&- &
    fi
    wait -n || :
}

enter() {
    local group
    [ -f "$state/pid" ] || { echo "no sandbox is running at $state" >&2; exit 1; }
    for group in "${groups[@]}"; do
        # One of cpuset v1 would need processors first, and nothing here depends on it.
        case $group in */cpuset*/*) continue ;; esac
        mkdir -p "$group/enter"
        echo 0 >"$group/enter/cgroup.procs"
    done
    exec nsenter --target "$(cat "$state/pid")" --mount --uts --ipc --net --pid --cgroup -- \
        setpriv --pdeathsig KILL -- "$@"
}

case ${1:-} in
join | init)
    state=$2 mode=$3
    name=${state##*/}
    find_groups
    "$1"
    ;;
enter)
    [ $# -ge 3 ] || usage
    state=$2 mode=$(cat "$2/mode" 2>/dev/null || :)
    name=${state##*/}
    find_groups
    shift 2
    enter "$@"
    ;;
*)
    [ $# = 2 ] || [ "${3:-}" = kept ] || usage
    state=$1 mode=$2 kept=${3:-}
    name=${state##*/}
    case $mode in unified | hybrid) ;; *) usage ;; esac
    find_groups
    boot
    ;;
esac
