//! Connections of Unix sockets, from a sock_diag snapshot.
