-- All SQL of the server: first the tables, then the statements.
--
-- A "-- name:" line names the statement below it, and says what it does. The methods in chatbot/storage/ run the
-- statements. Times are whole milliseconds since 1970 (UTC). Ids are UUIDs as text.

-- name: schema: Run once, for a new database.
CREATE TABLE sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,
    current       INTEGER,                          -- seq of the turn where the conversation is; NULL: before the first
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- With it, the sweep reads only idle sessions.
CREATE INDEX sessions_by_idleness ON sessions (last_accessed);
-- System prompts, the first messages of their sessions. They are not in the table sessions, because SQLite would write
-- the prompt again each time a session is marked as used.
CREATE TABLE prompts (
    session_id TEXT    NOT NULL PRIMARY KEY REFERENCES sessions (session_id) ON DELETE CASCADE,
    message_id TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    content    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- The new messages and their answer are one row, so a turn is whole or absent. The long texts are the last columns,
-- because SQLite reads columns after a long text slowly. AUTOINCREMENT: the seq of a deleted turn is never used again.
CREATE TABLE turns (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- a child has a larger seq than its parent
    session_id      TEXT    NOT NULL,               -- no foreign keys here: a cascade is slow, and fails on long chains
    parent          INTEGER,                        -- seq of the turn that it follows; NULL: none
    turn_id         TEXT    NOT NULL UNIQUE,        -- the reply's id; the ids of the new messages count from it: 001 …
    asked_at        INTEGER NOT NULL,
    replied_at      INTEGER NOT NULL,
    finish_reason   TEXT,                           -- NULL: no answer, a client only added messages
    input_count     INTEGER NOT NULL,               -- how many new messages it has, without those deleted alone
    context_start   INTEGER,                        -- seq of the turn at which its context began; NULL: this turn
    context_key     TEXT,                           -- hash of what is before the turns, and why it began there
    model           TEXT,
    first_token_ms  INTEGER,                        -- from the question to the reply's first characters
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),  -- as the LLM reported it, if it did
    idempotency_key TEXT,                           -- hash of the key and its scope; a deleted turn frees its key
    request_hash    TEXT    CHECK ((request_hash IS NULL) = (idempotency_key IS NULL)),  -- of the key's request
    response_id     TEXT,                           -- its id at OpenAI's door
    response        TEXT,                           -- the settings of the request there, as JSON
    input           TEXT    NOT NULL,               -- chat-completions messages, one per line; null: deleted alone
    output          TEXT,                           -- the assistant's message as JSON: role, content, tool_calls
    reasoning       TEXT,
    layout          TEXT,                           -- JSON: [[kind or number of the call, characters], …]; NULL: only text
    chunk_ends      BLOB,                           -- the length of each LLM chunk in characters, written as one character
    CHECK ((output IS NULL) = (finish_reason IS NULL))
) STRICT;

-- For siblings (turns that follow the same turn), subtrees and whole conversations.
CREATE INDEX turns_by_parent ON turns (session_id, parent);
-- One reply per key and one turn per response. Most turns have neither.
CREATE UNIQUE INDEX turns_by_key ON turns (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX turns_by_response ON turns (response_id) WHERE response_id IS NOT NULL;

-- Marks of deleted turns and sessions, which nobody finds any more. Their rows are removed later, then the marks.
CREATE TABLE gone (seq INTEGER PRIMARY KEY REFERENCES turns (seq) ON DELETE CASCADE) STRICT;
CREATE TABLE gone_sessions (session_id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE VIEW alive AS SELECT * FROM turns WHERE seq NOT IN gone AND session_id NOT IN gone_sessions;

-- Responses that were accepted before they ran. A row goes when its turn is stored; a failure stays at least an hour.
CREATE TABLE background (
    response_id TEXT    NOT NULL PRIMARY KEY,
    session_id  TEXT    NOT NULL,                   -- no foreign key, as in turns
    created_at  INTEGER NOT NULL,
    response    TEXT    NOT NULL,                   -- as in turns
    error       TEXT                                -- JSON: why it failed; NULL: it runs, or the process died
) STRICT, WITHOUT ROWID;
CREATE INDEX background_by_session ON background (session_id);
-- Secrets of this database: the key of the hashes that identify conversations to LLM servers.
CREATE TABLE secrets (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('affinity', randomblob(32));

-- The history for your own queries: one row for each message of each branch.
CREATE VIEW messages AS
SELECT message_id, session_id, 'system' AS role, content, created_at, NULL AS token_usage FROM prompts
UNION ALL
SELECT substr(turn_id, 1, 33) || printf('%03x', m.key + 1), session_id, m.value ->> 'role',
       m.value ->> 'content', asked_at, NULL
FROM alive, json_each('[' || replace(input, char(10), ',') || ']') AS m WHERE m.type = 'object'
UNION ALL
SELECT turn_id, session_id, 'assistant', output ->> 'content', replied_at, token_usage
FROM alive WHERE output IS NOT NULL;

-- name: count_sessions: Counts the sessions; run once, at start.
SELECT count(*) FROM sessions;
-- name: add_session: Adds a session.
INSERT INTO sessions (session_id, created_at, last_accessed, metadata)
VALUES (:session_id, :now, :now, :metadata);
-- name: get_session: Finds a session, also one that has expired.
SELECT session_id, created_at, last_accessed, metadata, current FROM sessions WHERE session_id = ?;
-- name: touch: Marks a session as used.
UPDATE sessions SET last_accessed = max(last_accessed, ?) WHERE session_id = ?;
-- name: go_to: Moves a conversation to a turn, or before the first, and marks it as used.
UPDATE sessions SET current = ?, last_accessed = max(last_accessed, ?) WHERE session_id = ?;
-- name: set_metadata: Replaces a session's metadata.
UPDATE sessions SET metadata = ? WHERE session_id = ?;
-- name: set_prompt: Adds or replaces the system prompt of a conversation.
INSERT OR REPLACE INTO prompts (session_id, message_id, created_at, content) VALUES (?, ?, ?, ?);
-- name: get_prompt: Finds the system prompt of a conversation.
SELECT message_id, created_at, content FROM prompts WHERE session_id = ?;
-- name: drop_prompt: Removes the system prompt of a conversation.
DELETE FROM prompts WHERE session_id = ?;
-- name: idle_sessions: Lists some sessions that were not used since a time, for the sweep.
SELECT session_id FROM sessions WHERE last_accessed <= ? LIMIT ?;

-- name: add_turn: Adds a turn: the new messages and their answer.
INSERT INTO turns (input_count, session_id, parent, turn_id, asked_at, replied_at, finish_reason, context_start,
                   context_key, model, first_token_ms, token_usage, idempotency_key, request_hash, response_id,
                   response, input, output, reasoning, layout, chunk_ends)
VALUES (:input_count, :session_id, :parent, :turn_id, :asked_at, :replied_at, :finish_reason, :context_start,
        :context_key, :model, :first_token_ms, :token_usage, :idempotency_key, :request_hash, :response_id,
        :response, :input, :output, :reasoning, :layout, :chunk_ends);
-- name: turns_up: Reads a turn (by seq, id, key or response), its parent, its parent …; at most :limit (-1: all).
WITH RECURSIVE up(seq) AS (
    SELECT seq FROM alive
    WHERE seq = :seq OR turn_id = :turn_id OR idempotency_key = :key OR response_id = :response_id
    UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq)
)
SELECT seq, session_id, parent, turn_id, asked_at, replied_at, finish_reason, context_start, context_key, model,
       first_token_ms, token_usage, idempotency_key, request_hash, response_id, response, input, output, reasoning,
       layout, chunk_ends
FROM up CROSS JOIN turns USING (seq) LIMIT :limit;
-- name: path: Lists the seq of a turn, its parent, its parent …, as long as they are larger than :above.
WITH RECURSIVE up(seq) AS (
    SELECT seq FROM alive WHERE seq = :seq AND seq > :above
    UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq) WHERE parent > :above
) SELECT seq FROM up;
-- name: count_path: Counts the messages of a path.
WITH RECURSIVE up(seq, messages) AS (
    SELECT ?, 0 UNION ALL SELECT parent, input_count + (finish_reason IS NOT NULL) FROM up CROSS JOIN turns USING (seq)
) SELECT sum(messages) FROM up;
-- name: below: Reads of a turn and its subtree: the number of messages, the newest turn, and all numbers as JSON.
WITH RECURSIVE below(session_id, seq) AS (
    SELECT session_id, seq FROM alive WHERE seq = ?
    UNION ALL SELECT session_id, t.seq FROM below CROSS JOIN turns AS t USING (session_id)
    WHERE t.parent = below.seq AND t.seq NOT IN gone
) SELECT total(input_count + (finish_reason IS NOT NULL)), max(seq), json_group_array(seq)
FROM below CROSS JOIN turns USING (seq);
-- name: children: Reads the turns that directly follow a turn, oldest first, if there are at least :least, with those that are gone.
SELECT seq, turn_id, finish_reason, input FROM alive
WHERE session_id = :session_id AND parent IS :parent AND :least <= (
    SELECT count(*) FROM (SELECT 1 FROM turns WHERE session_id = :session_id AND parent IS :parent LIMIT :least)
) ORDER BY seq;
-- name: session_of_turn: Finds the session of a turn, and the finish_reason of its reply, if it has one.
SELECT session_id, finish_reason FROM alive WHERE seq = ?;
-- name: keep_only: Deletes some messages or the answer of a turn, and its idempotency key, which would be wrong now.
UPDATE turns SET input = :input, input_count = :input_count, output = :output, reasoning = :reasoning,
                 layout = :layout, chunk_ends = :chunk_ends, token_usage = NULL, idempotency_key = NULL, request_hash = NULL,
                 finish_reason = CASE WHEN json_type(:output, '$.tool_calls') = 'array' THEN 'tool_calls'
                                      WHEN :output IS NOT NULL THEN 'stop' END
WHERE seq = :seq;
-- name: forget_response: Deletes the response id of a turn and its idempotency key. The turn itself stays.
UPDATE turns SET response_id = NULL, response = NULL, idempotency_key = NULL, request_hash = NULL WHERE seq = ?;

-- name: mark: Marks turns as gone.
INSERT INTO gone SELECT value FROM json_each(?);
-- name: mark_session: Marks a session as gone, with all its turns and responses.
INSERT OR IGNORE INTO gone_sessions VALUES (?);
-- name: leave_gone: Moves a session from a turn that is gone to another turn, or before the first.
UPDATE sessions SET current = ? WHERE session_id = ? AND current IN gone;
-- name: drop_gone: Removes one of the turns that are gone.
DELETE FROM turns WHERE seq = (SELECT seq FROM gone LIMIT 1);
-- name: drop_of_session: Removes one of the turns of a session that is gone.
DELETE FROM turns WHERE seq = (
    SELECT seq FROM turns WHERE session_id = (SELECT session_id FROM gone_sessions LIMIT 1) LIMIT 1
);
-- name: drop_background_of_session: Removes one of the responses of a session that is gone.
DELETE FROM background WHERE response_id = (
    SELECT response_id FROM background WHERE session_id = (SELECT session_id FROM gone_sessions LIMIT 1) LIMIT 1
);
-- name: drop_mark: Removes the mark of a session that has no rows left.
DELETE FROM gone_sessions WHERE session_id = (SELECT session_id FROM gone_sessions LIMIT 1);
-- name: drop_gone_by_key: Removes the turn with an idempotency key, if that turn is gone.
DELETE FROM turns WHERE idempotency_key = ? AND seq NOT IN (SELECT seq FROM alive WHERE seq = turns.seq);
-- name: drop_session: Removes a session and its prompt.
DELETE FROM sessions WHERE session_id = ?;

-- name: add_background: Adds a response that was accepted and will run.
INSERT INTO background (response_id, session_id, created_at, response) VALUES (?, ?, ?, ?);
-- name: drop_failed: Removes up to four responses of a session that were accepted before a time and failed.
DELETE FROM background WHERE response_id IN (SELECT response_id FROM background
    WHERE session_id = ? AND created_at <= ? AND error IS NOT NULL LIMIT 4);
-- name: get_background: Finds a response that was accepted and has no turn.
SELECT response_id, session_id, created_at, response, error FROM background
WHERE response_id = ? AND session_id NOT IN gone_sessions;
-- name: fail_background: Stores the error of a response.
UPDATE background SET error = ? WHERE response_id = ?;
-- name: drop_background: Removes a response that has its turn now, or is deleted.
DELETE FROM background WHERE response_id = ?;
-- name: get_secret: Reads a secret of this database.
SELECT value FROM secrets WHERE name = ?;
