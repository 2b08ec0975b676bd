# What packages and `cargo xtask install` do on a host beside the files. These functions come before the
# few lines of each script that say when, and after kind=, which is deb, rpm or source. No step stops an application, or cuts a connection.

# The generator's name with the highest precedence: a link to /dev/null there turns it off (systemd.generator(7)).
mask=/run/systemd/system-generators/ondemand-generator

is_booted() { [ -d /run/systemd/system ]; }

# Both units at boot, unless somebody has decided otherwise. $1: as for take_up.
enable() {
    case $kind in
    deb)
        # As debhelper does it.
        for unit in ondemand.service ondemand-load.service; do
            deb-systemd-helper unmask "$unit" >/dev/null || true
            if deb-systemd-helper --quiet was-enabled "$unit"; then
                deb-systemd-helper enable "$unit" >/dev/null || true
            else
                deb-systemd-helper update-state "$unit" >/dev/null || true
            fi
        done
        ;;
    rpm) [ -n "$1" ] || systemctl preset ondemand.service ondemand-load.service || true ;;
    source) [ -n "$1" ] || systemctl enable ondemand.service ondemand-load.service ;;
    esac
}

# After the files are in place. $1: the version that was configured before, if there was one.
take_up() {
    systemd-sysusers ondemand.conf
    rm -f "$mask"
    enable "$1"
    is_booted || return 0
    systemctl daemon-reload || true
    # The agent may have its name only when the bus has read the new policy.
    systemctl reload dbus.service || true
    # Clients are served meanwhile; a proxy goes on with the old program while it has a client.
    if systemctl is-enabled --quiet ondemand.service; then
        systemctl restart ondemand.service || true
    else
        systemctl try-restart ondemand.service || true
    fi
}

# Before the files are removed, not for an upgrade.
leave() {
    is_booted || return 0
    systemctl stop ondemand.service ondemand-load.service || true
    # deb-systemd-helper does it at a purge.
    [ $kind != rpm ] || systemctl --no-reload disable ondemand.service ondemand-load.service || true
    # Without its units an application is an ordinary one, which no lease keeps up or lets go.
    mkdir -p "${mask%/*}"
    ln -sfn /dev/null "$mask"
    systemctl daemon-reload || true
    systemctl stop 'ondemand-*.timer' || true
    systemctl stop 'ondemand-*.socket' 'ondemand-*.target' || true
    # A proxy then accepts no more, and exits when its last client is gone. (To stop it would have a time limit.)
    # Without a unit file its exit status counts as a failure, which is forgotten afterwards.
    for unit in $(systemctl list-units --plain --no-legend --state=active 'ondemand-*.service' | cut -d ' ' -f 1); do
        pid=$(systemctl show --property=MainPID --value "$unit")
        [ "$pid" -gt 0 ] || continue
        systemd-run --quiet --collect -- sh -c \
            "kill $pid; tail --pid=$pid --sleep-interval=2 -f /dev/null; sleep 0.5; systemctl reset-failed $unit" || true
    done
}

# After the files are removed.
clean_up() {
    # Ends the counting and steering in the kernel.
    rm -rf /sys/fs/bpf/ondemand
    rm -f /etc/polkit-1/rules.d/50-ondemand.rules
    rm -rf /run/ondemand /run/ondemand-bpf /run/ondemand-generator /run/ondemand-load /run/ondemand.proxies
    rm -f "$mask"
    rmdir "${mask%/*}" 2>/dev/null || true
    if is_booted; then
        systemctl daemon-reload || true
        systemctl reset-failed 'ondemand*' 2>/dev/null || true
        systemctl reload dbus.service || true
    fi
}

# What it has written, and the configuration.
purge() {
    if [ $kind = deb ]; then
        deb-systemd-helper purge ondemand.service ondemand-load.service >/dev/null || true
        deb-systemd-helper unmask ondemand.service ondemand-load.service >/dev/null || true
    else
        rm -f /etc/systemd/system/*.wants/ondemand.service /etc/systemd/system/*.wants/ondemand-load.service
    fi
    rm -rf /etc/ondemand /var/lib/ondemand /var/lib/ondemand-generator
    # That of the proxies stays if one of them has a client still.
    for user in ondemand-agent ondemand; do
        ! getent passwd "$user" >/dev/null || userdel "$user" || true
    done
}
