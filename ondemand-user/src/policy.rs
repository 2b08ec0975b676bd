//! Is a service idle? Pure: time and measurements are arguments, and it cannot fail.
