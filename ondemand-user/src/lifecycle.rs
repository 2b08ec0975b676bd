//! The stop protocol, as a pure state machine.
