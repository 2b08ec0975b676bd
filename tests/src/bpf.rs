//! The few uses of bpf(2) that tests and benches have and the product has not: programs that do
//! nothing, and looks at what is pinned.
//!
//! The structures are `union bpf_attr` of include/uapi/linux/bpf.h, as far as they are used.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_PROG_TYPE_CGROUP_SKB`
const CGROUP_SKB: u32 = 8;
/// `BPF_PROG_TYPE_SK_LOOKUP`
const SK_LOOKUP_PROGRAM: u32 = 30;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `BPF_CGROUP_INET_INGRESS`
    Ingress = 0,
    /// `BPF_CGROUP_INET_EGRESS`
    Egress = 1,
    /// `BPF_CGROUP_SOCK_OPS`
    SockOps = 3,
    /// `BPF_SK_LOOKUP`, of a network namespace.
    SkLookup = 36,
}

/// One command of bpf(2).
///
/// # Errors
///
/// The kernel's error.
///
/// # Safety
///
/// `attributes` is what this command expects, without padding; pointers in it are valid.
pub unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    let pointer: *mut T = attributes;
    // SAFETY: the caller's promise; the kernel takes a shorter union as one that ends in zeros.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// The same, for commands that return a file descriptor.
///
/// # Errors
///
/// The kernel's error.
///
/// # Safety
///
/// As for [`bpf`], and the command is one of those.
pub unsafe fn bpf_fd<T>(command: libc::c_long, mut attributes: T) -> io::Result<OwnedFd> {
    // SAFETY: guaranteed by the caller; the descriptor is new and owned here.
    unsafe { bpf(command, &mut attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Opens what is pinned at a path.
///
/// # Errors
///
/// Nothing is, or the path holds a NUL.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attributes of this command; the path lives until after it.
    unsafe { bpf_fd(OBJ_GET, attributes) }
}

/// Pins an object at a path.
///
/// # Errors
///
/// The kernel refuses, or the path holds a NUL.
pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = [path.as_ptr() as u64, object.as_raw_fd() as u64];
    // SAFETY: a path, then a descriptor and flags; the path lives until after the call.
    unsafe { bpf(OBJ_PIN, &mut attributes).map(drop) }
}

/// The id of the first program of the host.
///
/// # Errors
///
/// The kernel refuses.
pub fn first_program() -> io::Result<u32> {
    let mut attributes = [0_u32; 3];
    // SAFETY: an id, its successor, flags.
    unsafe { bpf(PROG_GET_NEXT_ID, &mut attributes)? };
    Ok(attributes[1])
}

/// Loads a program that lets everything pass and does nothing else.
///
/// # Errors
///
/// The kernel refuses.
pub fn empty(hook: Hook) -> io::Result<OwnedFd> {
    match hook {
        Hook::SkLookup => load(SK_LOOKUP_PROGRAM, hook as u32),
        // A program of packets may be attached at either side.
        _ => load(CGROUP_SKB, 0),
    }
}

/// The same for any type of program (`enum bpf_prog_type`) and place (`enum bpf_attach_type`).
///
/// # Errors
///
/// The kernel refuses.
pub fn load(kind: u32, expected: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        unused: [u32; 6],
        name: [u8; 16],
        interface: u32,
        expected: u32,
    }
    // r0 = 1; exit
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let attributes = Attributes {
        kind,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        unused: [0; 6],
        name: *b"ondemand_empty\0\0",
        interface: 0,
        expected,
    };
    // SAFETY: the code lives until after the call.
    unsafe { bpf_fd(PROG_LOAD, attributes) }
}

/// Attaches a program to a cgroup or a network namespace, beside what is attached there, for as
/// long as the result lives.
///
/// # Errors
///
/// The kernel refuses.
pub fn attach(program: &OwnedFd, target: impl AsFd, hook: Hook) -> io::Result<OwnedFd> {
    let attributes = [
        program.as_raw_fd() as u32,
        target.as_fd().as_raw_fd() as u32,
        hook as u32,
        0,
    ];
    // SAFETY: both descriptors are open.
    unsafe { bpf_fd(LINK_CREATE, attributes) }
}
