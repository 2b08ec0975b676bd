//! The private systemd that whole-system tests run in, and the clients that load it.
