//! The example of libvirt, with its own daemon. Its driver of containers (LXC) boots in a moment what its others need an emulator
//! for; units, addresses and `virsh` are the same.

use std::{fs, path::Path, process::Command};

use tests::{
    require, require_long,
    sandbox::{Cgroups, Sandbox},
    service, skip,
};

use crate::{
    require_sandbox,
    runtimes::{example, install_unit, serves},
    runtimes_real::{is_used, tree},
};

const MACHINE: &str = "<domain type='lxc'><name>wiki</name><memory unit='MiB'>128</memory>\
    <os><type>exe</type><init>/usr/bin/wiki</init><initarg>--listen</initarg><initarg>0.0.0.0:8000</initarg>\
    <initarg>--start-delay-ms</initarg><initarg>300</initarg><initarg>--stop-delay-ms</initarg><initarg>300</initarg></os>\
    <devices><filesystem type='mount'><source dir='/var/wiki'/><target dir='/'/></filesystem>\
    <interface type='network'><source network='default'/><ip address='192.168.122.10' family='ipv4' prefix='24'/></interface>\
    <console type='pty'/></devices></domain>";

/// A sandbox with a machine that has the address of the example.
fn with_machine() -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    for directory in ["/etc/libvirt", "/var/lib/libvirt"] {
        let to = sandbox.path(directory);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-a").arg(directory).arg(to).status();
        assert!(copied.unwrap().success(), "{directory}");
    }
    sandbox
        .write(
            "/etc/libvirt/libvirt.conf",
            "uri_default = \"lxc:///system\"\n",
        )
        .unwrap();
    let root = sandbox.path("/var/wiki");
    tree(&root);
    for directory in ["dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    sandbox.write("/var/wiki.xml", MACHINE).unwrap();
    // systemd-machined, which the package of containers may bring, wants cgroups that a sandbox has not.
    let steps = "mknod /dev/fuse c 10 229
                 rm -f /usr/share/dbus-1/system-services/org.freedesktop.machine1.service
                 systemctl reload dbus.service
                 systemctl start libvirtd.service
                 virsh net-start default
                 virsh define /var/wiki.xml";
    sandbox
        .run(&["sh", "-ec", steps])
        .unwrap_or_else(|error| panic!("{error:#}: {}", sandbox.journal("libvirtd.service")));
    sandbox
}

#[test]
fn a_real_machine_of_libvirt() {
    require_long!("boots a machine");
    require_sandbox!();
    require!(skip::missing(&[
        "libvirtd",
        "virsh",
        "/usr/lib/libvirt/libvirt_lxc",
        "/etc/libvirt/qemu/networks/default.xml",
        "dnsmasq",
        "ldd"
    ]));
    require!((!Path::new("/dev/fuse").exists()).then_some("this kernel has no FUSE"));
    let sandbox = with_machine();
    // Where others press a button (ACPI), this driver writes to init's pipe, which the application has not.
    let text = example("machine.service").replace("virsh shutdown", "virsh shutdown --mode signal");
    let unit = install_unit(&sandbox, "machine.toml", &text);
    let file = "/etc/ondemand/ondemand.toml";
    let config = fs::read_to_string(sandbox.path(file)).unwrap();
    let config = config.replace("0.0.0.0:80\"", "127.0.0.1:8000\"");
    sandbox.write(file, config).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 3);
    is_used(&sandbox, &unit, "proxied");
    let state = sandbox
        .run(&["virsh", "domstate", "--reason", "wiki"])
        .unwrap();
    assert!(state.starts_with("shut off"), "{state}");
    assert!(!state.contains("destroyed"), "it was cut: {state}");
}
