-- Version 6: what a run had to do with room, and how it was thawed; NULL: nothing, or unknown.
ALTER TABLE activation ADD COLUMN evicted INTEGER;      -- its end made room: 1 for another one of its group, 2 for memory
ALTER TABLE activation ADD COLUMN waited INTEGER;       -- before its start: for room in its group
ALTER TABLE activation ADD COLUMN thaws INTEGER;        -- how often a client had it thawed
ALTER TABLE activation ADD COLUMN thawing INTEGER;      -- how long that took together, in microseconds
ALTER TABLE activation ADD COLUMN longest_thaw INTEGER; -- the longest of them, in microseconds
