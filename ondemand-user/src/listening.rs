//! Which TCP and Unix sockets of this network namespace are listening (sock_diag).
