//! The event loop: the one place where samples, timers, systemd and signals meet.
