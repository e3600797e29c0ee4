-- Those that are over are found without reading all of a day. PostgreSQL has had this from the beginning.
CREATE INDEX request_nonces_by_end ON request_nonces (expires_at);
