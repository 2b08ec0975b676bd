-- Version 3: connections on which no byte went, and that the stop of a run closed; NULL: none, or unknown.
ALTER TABLE activation ADD COLUMN silent INTEGER;
