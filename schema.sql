-- Everything the server says to SQLite: first the tables, then every statement, at last how an older file becomes one
-- of now.
--
-- A statement begins at its "-- name:" line, has one line on what it is for, and is run by a method of
-- chatbot/store.py. Times are whole milliseconds since 1970 (UTC). Ids are UUIDs as text. What every turn needs
-- takes its values by place: binding them by name would cost as much as some of these statements. The texts of
-- prompts, questions and replies are JSON strings, for as such the LLM is sent each of them many times.

-- name: schema
CREATE TABLE IF NOT EXISTS sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,                 -- marked by requests, but for most chats: see used_sessions
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- The sweep reads the oldest first and nothing else.
CREATE INDEX IF NOT EXISTS sessions_by_access ON sessions (last_accessed);

-- System prompts, the first messages of their sessions. In the row of its session a prompt would be written again each
-- time that the session is marked.
CREATE TABLE IF NOT EXISTS prompts (
    session_id TEXT    NOT NULL PRIMARY KEY REFERENCES sessions (session_id) ON DELETE CASCADE,
    message_id TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    content    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- A question and its reply are one row: a turn is whole or absent. The texts stand last, for what stands after a long one
-- is long to reach.
CREATE TABLE IF NOT EXISTS turns (
    seq             INTEGER NOT NULL PRIMARY KEY,   -- the order of the conversation; clocks may repeat, this never does
    session_id      TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    question_id     TEXT    NOT NULL UNIQUE,
    asked_at        INTEGER NOT NULL,
    reply_id        TEXT    NOT NULL UNIQUE,
    replied_at      INTEGER NOT NULL,
    finish_reason   TEXT    NOT NULL,
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),  -- as the LLM reported it, if it did
    idempotency_key TEXT,                           -- goes with the turn, so a rewound one frees its key
    request_hash    TEXT    CHECK ((request_hash IS NULL) = (idempotency_key IS NULL)),  -- what the key was first used for
    question        TEXT    NOT NULL,
    reply           TEXT    NOT NULL
) STRICT;

-- Serves history, context and the cascade from sessions.
CREATE INDEX IF NOT EXISTS turns_by_session ON turns (session_id, seq);

-- One reply a key; most replies have none.
CREATE UNIQUE INDEX IF NOT EXISTS turns_by_key ON turns (session_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- The prompt of each session, then the question and the reply of each turn, in the order of their places.
CREATE VIEW IF NOT EXISTS messages AS
SELECT session_id, 0 AS place, message_id, 'system' AS role, content, created_at, NULL AS token_usage,
       NULL AS finish_reason FROM prompts
UNION ALL
SELECT session_id, 2 * seq, question_id, 'user', question, asked_at, NULL, NULL FROM turns
UNION ALL
SELECT session_id, 2 * seq + 1, reply_id, 'assistant', reply, replied_at, token_usage, finish_reason FROM turns;

-- Sessions and when they really were last accessed: the turns tell it, at no cost. (So a turn from a clock that was
-- ahead keeps its session for as long.) Temporary, for a file would keep it as it once was.
CREATE TEMP VIEW IF NOT EXISTS used_sessions AS
SELECT session_id, created_at, metadata, last_accessed AS last_marked,
       max(last_accessed, ifnull((
            SELECT replied_at FROM turns WHERE session_id = s.session_id ORDER BY seq DESC LIMIT 1), 0))
       AS last_accessed
FROM sessions AS s;

-- name: count_sessions
-- How many sessions are stored; asked once, at start.
SELECT count(*) FROM sessions;

-- name: add_session
-- A new conversation.
INSERT INTO sessions (session_id, created_at, last_accessed, metadata)
VALUES (:session_id, :now, :now, :metadata);

-- name: add_prompt
-- The system prompt of a new conversation.
INSERT INTO prompts (session_id, message_id, created_at, content)
VALUES (:session_id, :message_id, :created_at, :content);

-- name: get_session
-- Finds a session, also one that has expired.
SELECT session_id, created_at, last_accessed, metadata FROM used_sessions WHERE session_id = ?;

-- name: set_metadata
-- Replaces a session's metadata.
UPDATE sessions SET metadata = :metadata WHERE session_id = :session_id;

-- name: delete_session
-- Deletes a conversation; its prompt and its turns follow by cascade.
DELETE FROM sessions WHERE session_id = :session_id;

-- name: unmarked_sessions
-- The next batch for the sweep, longest unmarked first; some of them were used by chats.
SELECT session_id, last_accessed FROM used_sessions WHERE last_marked <= :cutoff ORDER BY last_marked LIMIT :limit;

-- name: add_turn
-- A question and its reply at the end of a conversation; what the reply does not have is ''.
INSERT INTO turns (session_id, question_id, asked_at, reply_id, replied_at, finish_reason, token_usage,
                   idempotency_key, request_hash, question, reply)
VALUES (?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?);

-- name: touch
-- Marks a session as used, whatever its age.
UPDATE sessions SET last_accessed = ? WHERE session_id = ?;

-- name: count_messages
-- How long a conversation is.
SELECT (SELECT count(*) FROM prompts WHERE session_id = :session_id)
       + 2 * (SELECT count(*) FROM turns WHERE session_id = :session_id);

-- name: get_message
-- One message of one session, with its place in it.
SELECT message_id, role, content, created_at, token_usage, finish_reason, place FROM messages
WHERE message_id = :message_id AND session_id = :session_id;

-- name: get_prompt
-- The system prompt of a session, as a message.
SELECT message_id, 'system', content, created_at, NULL, NULL, 0 FROM prompts WHERE session_id = :session_id;

-- name: turns_until
-- What a page ends with that ends with turn :seq, newest first.
SELECT seq, question_id, question, asked_at, reply_id, reply, replied_at, token_usage, finish_reason FROM turns
WHERE session_id = :session_id AND seq <= :seq ORDER BY seq DESC;

-- name: turns_from
-- What a page begins with that begins with turn :seq, oldest first.
SELECT seq, question_id, question, asked_at, reply_id, reply, replied_at, token_usage, finish_reason FROM turns
WHERE session_id = :session_id AND seq >= :seq ORDER BY seq;

-- name: conversation
-- What a turn begins with, in one row (a step to another costs more than what is in it): the use, the prompt, the turns.
SELECT last_accessed, (SELECT content FROM prompts WHERE session_id = s.session_id),
       (SELECT ifnull(group_concat(
            '{"role":"user","content":' || question || '},{"role":"assistant","content":' || reply || '}'), '')
        FROM (SELECT question, reply FROM turns
              WHERE session_id = s.session_id AND seq > ifnull((  -- the newest that is left out
                    SELECT seq FROM turns WHERE session_id = s.session_id ORDER BY seq DESC LIMIT 1 OFFSET ?), 0)
              ORDER BY seq))
FROM used_sessions AS s WHERE session_id = ?;

-- name: rewind
-- Deletes a turn and all after it.
DELETE FROM turns WHERE session_id = :session_id AND seq >= :seq;

-- name: drop_prompt
-- Deletes a session's system prompt.
DELETE FROM prompts WHERE session_id = :session_id;

-- name: reply_by_key
-- The stored reply that an idempotency key stands for.
SELECT reply_id, request_hash FROM turns
WHERE session_id = :session_id AND idempotency_key = :idempotency_key;

-- name: upgrade_1
-- A file of version 1 had a row for each message, a prompt among them, and a reply next after its question.
INSERT INTO prompts SELECT session_id, message_id, created_at, json_quote(content) FROM messages WHERE role = 'system';
INSERT INTO turns
SELECT q.seq, q.session_id, q.message_id, q.created_at, r.message_id, r.created_at, r.finish_reason, r.token_usage,
       r.idempotency_key, r.request_hash, json_quote(q.content), json_quote(r.content)
FROM messages AS q JOIN messages AS r
     ON r.seq = (SELECT min(seq) FROM messages WHERE session_id = q.session_id AND seq > q.seq)
WHERE q.role = 'user' ORDER BY q.seq;
-- A message that is neither would be lost: an empty turn fails, and with it the upgrade.
INSERT INTO turns (seq) SELECT NULL
WHERE (SELECT count(*) FROM messages) <> (SELECT count(*) FROM prompts) + 2 * (SELECT count(*) FROM turns);
DROP TABLE messages;
DROP VIEW IF EXISTS main.used_sessions;
