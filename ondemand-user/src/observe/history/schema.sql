-- Version 1. Times are milliseconds since 1970 by the host's clock, spans are milliseconds.
-- Tables are in the order of time, so that a period is one stretch of them, and what is too
-- old is cut off at their begin.
CREATE TABLE service (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    quiet_since INTEGER -- nobody has used it since; NULL: in use, or unknown
);
-- When an agent watched a service. An agent that is killed leaves `ended` NULL, and the next
-- one goes on with the same row.
CREATE TABLE watch (
    service INTEGER NOT NULL,
    began INTEGER NOT NULL,
    ended INTEGER,
    PRIMARY KEY (service, began)
) WITHOUT ROWID;
-- One run of an application.
CREATE TABLE activation (
    started INTEGER NOT NULL, -- its start began
    service INTEGER NOT NULL,
    listening INTEGER,        -- after `started`: it listened
    first_byte INTEGER,       -- after `started`: the first packet to a client
    ended INTEGER,            -- after `started`: it was down; NULL: it runs
    reason INTEGER,           -- why it ended: 0 idle, 1 external, 2 failed, 3 nobody saw, 4 requested
    connections INTEGER,      -- clients accepted since the run before
    received INTEGER,         -- payload bytes from clients since then
    sent INTEGER,             -- payload bytes to clients since then
    memory INTEGER,           -- bytes, just before its lease was released
    cpu INTEGER,              -- CPU time in microseconds, when `memory` was read
    PRIMARY KEY (started, service)
) WITHOUT ROWID;
CREATE INDEX running ON activation (service) WHERE ended IS NULL;
-- An arrival after nobody had used the service for `length`; NULL: nobody knows how long.
CREATE TABLE gap (
    ended INTEGER NOT NULL,
    service INTEGER NOT NULL,
    length INTEGER,
    PRIMARY KEY (ended, service)
) WITHOUT ROWID;
