-- Move stored times back, for tests.
\set seconds 60
UPDATE mailrail_dead SET
    expires = expires - :'seconds', sent_at = sent_at - :'seconds', buried_at = buried_at - :'seconds';
