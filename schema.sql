-- Everything the server says to SQLite: first the tables, then every statement.
--
-- A statement begins at its "-- name:" line, has one line on what it is for, and is a method of
-- chatbot/store.py. Times are whole milliseconds since 1970 (UTC). Ids are UUID4 text. What every turn needs
-- takes its values by place: binding them by name would cost as much as some of these statements.

-- name: schema
CREATE TABLE IF NOT EXISTS sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,                 -- marked by requests, but for most chats: see used_sessions
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- The sweep reads the oldest first and nothing else.
CREATE INDEX IF NOT EXISTS sessions_by_access ON sessions (last_accessed);

CREATE TABLE IF NOT EXISTS messages (
    seq             INTEGER NOT NULL PRIMARY KEY,   -- the order of the conversation; clocks may repeat, this never does
    message_id      TEXT    NOT NULL UNIQUE,
    session_id      TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    role            TEXT    NOT NULL CHECK (role = 'system' OR role = 'user' OR role = 'assistant'),  -- an IN would build a table each time
    content         TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),  -- as the LLM reported it, if it did
    finish_reason   TEXT,
    idempotency_key TEXT,                           -- on the reply; goes with it, so a rewound turn frees its key
    request_hash    TEXT,                           -- what the key was first used for
    CHECK ((role = 'assistant') = (finish_reason IS NOT NULL)),
    CHECK ((idempotency_key IS NULL) = (request_hash IS NULL))
) STRICT;

-- Serves history, context and the cascade from sessions.
CREATE INDEX IF NOT EXISTS messages_by_session ON messages (session_id, seq);

-- One reply a key; most replies have none.
CREATE UNIQUE INDEX IF NOT EXISTS messages_by_key ON messages (session_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- Sessions and when they really were last accessed: the messages of a chat tell it, at no cost. (So a message from
-- a clock that was ahead keeps its session for as long.) Temporary, for a file would keep it as it once was.
CREATE TEMP VIEW IF NOT EXISTS used_sessions AS
SELECT session_id, created_at, metadata, last_accessed AS last_marked,
       max(last_accessed, ifnull((
            SELECT created_at FROM messages WHERE session_id = s.session_id ORDER BY seq DESC LIMIT 1), 0))
       AS last_accessed
FROM sessions AS s;

-- name: count_sessions
-- How many sessions are stored; asked once, at start.
SELECT count(*) FROM sessions;

-- name: add_session
-- A new conversation.
INSERT INTO sessions (session_id, created_at, last_accessed, metadata)
VALUES (:session_id, :now, :now, :metadata);

-- name: get_session
-- Finds a session, also one that has expired.
SELECT session_id, created_at, last_accessed, metadata FROM used_sessions WHERE session_id = ?;

-- name: set_metadata
-- Replaces a session's metadata.
UPDATE sessions SET metadata = :metadata WHERE session_id = :session_id;

-- name: delete_session
-- Deletes a conversation; its messages follow by cascade.
DELETE FROM sessions WHERE session_id = :session_id;

-- name: unmarked_sessions
-- The next batch for the sweep, longest unmarked first; some of them were used by chats.
SELECT session_id, last_accessed FROM used_sessions WHERE last_marked <= :cutoff ORDER BY last_marked LIMIT :limit;

-- name: add_message
-- One message at the end of a conversation, a system prompt.
INSERT INTO messages (session_id, message_id, role, content, created_at)
VALUES (:session_id, :message_id, :role, :content, :created_at);

-- name: add_turn
-- A question and its reply at the end of a conversation; what the reply does not have is ''.
INSERT INTO messages (session_id, message_id, role, content, created_at, token_usage, finish_reason,
                      idempotency_key, request_hash)
VALUES (?, ?, 'user', ?, ?, NULL, NULL, NULL, NULL),
       (?, ?, 'assistant', ?, ?, nullif(?, ''), ?, nullif(?, ''), nullif(?, ''));

-- name: touch
-- Marks a session as used, whatever its age.
UPDATE sessions SET last_accessed = ? WHERE session_id = ?;

-- name: count_messages
-- How long a conversation is.
SELECT count(*) FROM messages WHERE session_id = :session_id;

-- name: get_message
-- One message of one session, with its place in it.
SELECT message_id, role, content, created_at, token_usage, finish_reason, seq FROM messages
WHERE message_id = :message_id AND session_id = :session_id;

-- name: messages_before
-- A page that ends just before :seq, newest first.
SELECT message_id, role, content, created_at, token_usage, finish_reason, seq FROM messages
WHERE session_id = :session_id AND seq < :seq ORDER BY seq DESC LIMIT :limit;

-- name: messages_after
-- A page that begins just after :seq, oldest first.
SELECT message_id, role, content, created_at, token_usage, finish_reason, seq FROM messages
WHERE session_id = :session_id AND seq > :seq ORDER BY seq LIMIT :limit;

-- name: conversation
-- What a turn begins with, in one row (a step to another costs more than what is in it): the use, the prompt, the turns.
SELECT last_accessed,
       (SELECT CASE role WHEN 'system' THEN content END
        FROM messages WHERE session_id = s.session_id ORDER BY seq LIMIT 1),
       (SELECT json_group_array(json_object('role', role, 'content', content)) FROM (
            SELECT role, content FROM messages
            WHERE session_id = s.session_id AND role <> 'system' AND seq > ifnull((  -- the newest that is left out
                SELECT seq FROM messages WHERE session_id = s.session_id ORDER BY seq DESC LIMIT 1 OFFSET ?), 0)
            ORDER BY seq))
FROM used_sessions AS s WHERE session_id = ?;

-- name: question_of
-- The question that a reply answers: the message just before it.
SELECT max(seq) FROM messages WHERE session_id = :session_id AND seq < :seq AND role = 'user';

-- name: rewind
-- Deletes a message and all after it.
DELETE FROM messages WHERE session_id = :session_id AND seq >= :seq;

-- name: reply_by_key
-- The stored reply that an idempotency key stands for.
SELECT message_id, request_hash FROM messages
WHERE session_id = :session_id AND idempotency_key = :idempotency_key;
