//! Loads, attaches and pins the eBPF programs; the next agent takes them over.
