//! What services are, what keeps them up, and who had to make room.

use ondemand_core::measure::unit::ActiveState;

use super::super::{exposition::Exposition, kept::Kept, observation::Row};

const STATES: [ActiveState; 5] = [
    ActiveState::Inactive,
    ActiveState::Activating,
    ActiveState::Active,
    ActiveState::Deactivating,
    ActiveState::Failed,
];

pub(super) fn write(text: &mut Exposition, rows: &[Row]) {
    text.gauge(
        "ondemand_state",
        "",
        "1 for the state of the service's unit, 0 for the others. Inactive means dormant, not faulty.",
    )
    .by(rows, "state", |row, _| {
        let is_it = |state: ActiveState| u64::from(row.state == Some(state));
        row.state.map(|_| STATES.map(|state| (state.as_str(), is_it(state))))
    });
    text.gauge(
        "ondemand_kept_up",
        "",
        "1 for what keeps the running service up, 0 for the others: clients, timeout (unused, but not yet for its idle timeout), never (it has none), held, needed (by another service), idle (it is being stopped, or that is vetoed), unmanaged, unknown. Absent while it is down.",
    )
    .by(rows, "reason", |row, _| {
        let kept = row.kept?;
        Some(Kept::ALL.map(|reason| (reason.as_str(), u64::from(reason == kept))))
    });
    text.gauge(
        "ondemand_frozen",
        "",
        "1 if the running application is frozen (freeze_after), 0 if not. Absent where it never is.",
    )
    .each(rows, |row, _| row.frozen.0.then_some(u32::from(row.frozen.1)));
    text.counter(
        "ondemand_freezes",
        "",
        "How often the application was frozen (freeze_after).",
    )
    .each(rows, |row, _| row.frozen.0.then_some(row.frozen.2));
    text.counter(
        "ondemand_evictions",
        "",
        "Stops of the idle service to make room: for group (a client of another service of its group waited), for memory (memory_budget).",
    )
    .by(rows, "for", |row, _| {
        let room = row.room?;
        Some([("group", room.for_group), ("memory", room.for_memory)])
    });
    text.counter(
        "ondemand_room_waits",
        "",
        "How often the service waited for room in its group, until there was some.",
    )
    .each(rows, |row, _| Some(row.room?.waits));
    text.counter(
        "ondemand_room_wait_seconds",
        "seconds",
        "How long the service waited for room in its group.",
    )
    .each(rows, |row, _| Some(row.room?.waited.as_secs_f64()));
    text.gauge(
        "ondemand_ready",
        "",
        "1 if the running application has said that it is ready, 0 if not yet (ready). Absent while it is down.",
    )
    .each(rows, |row, _| row.ready.map(u32::from));
}
