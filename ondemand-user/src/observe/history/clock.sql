-- Version 2. Times are on the history's own clock: milliseconds of CLOCK_MONOTONIC of all boots, one
-- after the other, without the time in which the host was off or suspended (calendar.rs). What version
-- 1 wrote has the wall clock's times of that moment; the first boot of version 2 goes on from there.
CREATE TABLE clock (
    since INTEGER PRIMARY KEY,  -- from here on the wall clock went like the history's own
    boot TEXT NOT NULL,         -- the kernel's boot_id; empty: before version 2
    monotonic INTEGER NOT NULL, -- CLOCK_MONOTONIC at `since`
    wall INTEGER NOT NULL,      -- milliseconds since 1970 at `since`
    until INTEGER NOT NULL      -- the last sign of life: what was open in an older boot ended there
);
