-- Version 5: since the run before, NULL: unknown. Clients that were held, and sent to the application or the front socket, or gave
-- up; the sum of the times that they were held, in milliseconds; clients that were refused.
ALTER TABLE activation ADD COLUMN held INTEGER;
ALTER TABLE activation ADD COLUMN held_to_front INTEGER;
ALTER TABLE activation ADD COLUMN gave_up INTEGER;
ALTER TABLE activation ADD COLUMN held_for INTEGER;
ALTER TABLE activation ADD COLUMN refused INTEGER;
-- Datagrams; of those that were held the ones that were sent, and the ones that were lost; those that were refused.
ALTER TABLE activation ADD COLUMN datagrams INTEGER;
ALTER TABLE activation ADD COLUMN held_datagrams INTEGER;
ALTER TABLE activation ADD COLUMN lost_datagrams INTEGER;
ALTER TABLE activation ADD COLUMN refused_datagrams INTEGER;
