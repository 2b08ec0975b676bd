//! Steps of the stop protocol that a test leaves out, to show what is lost without them.
//!
//! Only a program that was built with the cargo feature `ablation` can.

#[cfg(all(feature = "ablation", not(debug_assertions)))]
compile_error!("the feature `ablation` is for tests: it must not be in a release build");

/// A step that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connections are steered until the backend is gone, and from its listen(2) on.
    Gate,
    /// Half-open handshakes do not veto.
    HalfOpenCheck,
}

/// Whether `ONDEMAND_LEAVES_OUT` names this step.
pub fn leaves_out(step: Step) -> bool {
    let name = match step {
        Step::Gate => "gate",
        Step::HalfOpenCheck => "half-open-check",
    };
    cfg!(feature = "ablation") && std::env::var("ONDEMAND_LEAVES_OUT").is_ok_and(|out| out == name)
}
