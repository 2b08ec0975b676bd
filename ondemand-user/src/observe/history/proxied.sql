-- Version 4: clients accepted since the run before that the proxy carried; NULL: unknown.
ALTER TABLE activation ADD COLUMN proxied INTEGER;
