//! Steps of the stop protocol that a test leaves out, to show what is lost without them; and places
//! that fail as no place should.
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

/// Panics if `ONDEMAND_PANICS_IN` names this place.
pub fn panic_in(place: &str) {
    let named = || std::env::var("ONDEMAND_PANICS_IN").is_ok_and(|named| named == place);
    if cfg!(feature = "ablation") && named() {
        panic!("as asked, in {place}");
    }
}
