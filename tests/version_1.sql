-- The tables of a database file of version 1, as the program of then made them.
CREATE TABLE sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;
CREATE INDEX sessions_by_access ON sessions (last_accessed);

CREATE TABLE messages (
    seq             INTEGER NOT NULL PRIMARY KEY,
    message_id      TEXT    NOT NULL UNIQUE,
    session_id      TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    role            TEXT    NOT NULL CHECK (role = 'system' OR role = 'user' OR role = 'assistant'),
    content         TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),
    finish_reason   TEXT,
    idempotency_key TEXT,
    request_hash    TEXT,
    CHECK ((role = 'assistant') = (finish_reason IS NOT NULL)),
    CHECK ((idempotency_key IS NULL) = (request_hash IS NULL))
) STRICT;
CREATE INDEX messages_by_session ON messages (session_id, seq);
CREATE UNIQUE INDEX messages_by_key ON messages (session_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE VIEW used_sessions AS  -- only in some of them
SELECT session_id, created_at, metadata, last_accessed AS last_marked,
       max(last_accessed, ifnull((
            SELECT created_at FROM messages WHERE session_id = s.session_id ORDER BY seq DESC LIMIT 1), 0))
       AS last_accessed
FROM sessions AS s;

PRAGMA user_version=1;
PRAGMA application_id=1128808788;
