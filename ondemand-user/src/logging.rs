//! Log lines for people, with the priorities that journald reads.
