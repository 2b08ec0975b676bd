//! Runs the program of `veto =` before a stop.
