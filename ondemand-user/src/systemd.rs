//! The only code that speaks to PID 1.
