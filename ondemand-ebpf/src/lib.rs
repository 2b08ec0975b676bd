//! The vocabulary that the kernel's programs and the agent share.
#![no_std]
