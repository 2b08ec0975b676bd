//! `org.ondemand1` on the system bus: what the agent knows, for `ondemand status` and others.
