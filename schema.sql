-- Everything the server says to SQLite: first the tables, then every statement.
--
-- A "-- name:" line says what the statement after it is for, which is run by a method of chatbot/storage/. Times are
-- whole milliseconds since 1970 (UTC). Ids are UUIDs as text.

-- name: schema: Run once, for a new database.
CREATE TABLE sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,
    idle_since    INTEGER NOT NULL,                 -- last_accessed as the sweep last saw it; has the index
    current       INTEGER,                          -- the turn that the conversation is at; NULL: before the first
    deleted       INTEGER NOT NULL DEFAULT 0,       -- 1: gone for everybody, and its rows are being removed
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- The sweep reads the oldest first and nothing else; a start reads what a kill left to be removed.
CREATE INDEX sessions_by_idleness ON sessions (idle_since) WHERE deleted = 0;
CREATE INDEX sessions_deleted ON sessions (session_id) WHERE deleted = 1;
-- System prompts, the first messages of their sessions. In the row of its session a prompt would be written again each
-- time that the session is marked.
CREATE TABLE prompts (
    session_id TEXT    NOT NULL PRIMARY KEY REFERENCES sessions (session_id) ON DELETE CASCADE,
    message_id TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    content    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- What was said and what was answered are one row: a turn is whole or absent. The long texts stand last, for what
-- stands after a long one is long to reach. AUTOINCREMENT: the number of a turn that was deleted is never given again.
CREATE TABLE turns (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- children have larger numbers than what they follow
    session_id      TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    parent          INTEGER,                        -- the turn it follows; no foreign key: cascades fail on long chains
    turn_id         TEXT    NOT NULL UNIQUE,        -- the reply's id; ids of what was said count from it: 001 …
    asked_at        INTEGER NOT NULL,
    replied_at      INTEGER NOT NULL,
    finish_reason   TEXT,                           -- NULL: nothing was answered, a client only added messages
    input_count     INTEGER NOT NULL,               -- how many messages were said, without those deleted alone
    calls           INTEGER NOT NULL DEFAULT 0,     -- how many tool calls the reply made
    context_start   INTEGER,                        -- the turn with which its context began; NULL: itself
    context_key     TEXT,                           -- what stood before the turns, as a short hash
    model           TEXT,
    first_token_ms  INTEGER,                        -- from the question to the reply's first characters
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),  -- as the LLM reported it, if it did
    idempotency_key TEXT,                           -- a hash of it and its scope; a rewound turn frees its key
    request_hash    TEXT    CHECK ((request_hash IS NULL) = (idempotency_key IS NULL)),  -- of what it was used for
    response_id     TEXT,                           -- what OpenAI's door calls it, and
    response        TEXT,                           -- the settings it was asked with there, as JSON
    input           TEXT    NOT NULL,               -- chat-completions messages, one a line; null: deleted alone
    output          TEXT,                           -- the assistant's message as JSON: role, content, tool_calls
    reasoning       TEXT,
    layout          TEXT,                           -- JSON: [[letter, characters], …], see reply_log.py; NULL: text alone
    chunk_ends      BLOB,                           -- how many characters each of the LLM's chunks had, as varints
    CHECK ((output IS NULL) = (finish_reason IS NULL))
) STRICT;

-- Serves versions (what follows the same turn), subtrees, and the cascade from sessions.
CREATE INDEX turns_by_parent ON turns (session_id, parent);
-- One reply a key and one turn a response; most turns have neither.
CREATE UNIQUE INDEX turns_by_key ON turns (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX turns_by_response ON turns (response_id) WHERE response_id IS NOT NULL;

-- Turns that are gone with all that follows from them, and are being removed, leaves first. The mark goes with its turn.
CREATE TABLE removals (root INTEGER NOT NULL PRIMARY KEY REFERENCES turns (seq) ON DELETE CASCADE) STRICT;

-- Responses that were accepted before they ran. A row goes when its turn is stored; one that failed stays for an hour.
CREATE TABLE background (
    response_id TEXT    NOT NULL PRIMARY KEY,
    session_id  TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    response    TEXT    NOT NULL,                   -- as in turns
    error       TEXT,                               -- JSON: what it failed of; NULL: it runs
    failed_at   INTEGER CHECK ((failed_at IS NULL) = (error IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX background_by_session ON background (session_id);
CREATE INDEX background_by_failure ON background (failed_at) WHERE failed_at IS NOT NULL;
-- What only this database knows: the key of the hashes by which LLM servers tell conversations apart.
CREATE TABLE secrets (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('affinity', randomblob(32));

-- The history for a plain SELECT: a row for each message of each branch.
CREATE VIEW messages AS
WITH RECURSIVE gone(session_id, seq) AS (
    SELECT session_id, root FROM removals CROSS JOIN turns ON seq = root UNION ALL
    SELECT t.session_id, t.seq FROM gone JOIN turns AS t ON t.session_id = gone.session_id AND t.parent = gone.seq
), here AS (
    SELECT turns.* FROM turns JOIN sessions USING (session_id) WHERE NOT deleted AND seq NOT IN (SELECT seq FROM gone)
)
SELECT message_id, session_id, 'system' AS role, content, prompts.created_at, NULL AS token_usage
FROM prompts JOIN sessions USING (session_id) WHERE deleted = 0
UNION ALL
SELECT substr(turn_id, 1, 33) || printf('%03x', m.key + 1), session_id, m.value ->> 'role',
       m.value ->> 'content', asked_at, NULL
FROM here, json_each('[' || replace(input, char(10), ',') || ']') AS m WHERE m.type = 'object'
UNION ALL
SELECT turn_id, session_id, 'assistant', output ->> 'content', replied_at, token_usage
FROM here WHERE output IS NOT NULL;

-- name: count_sessions: How many sessions there are; asked once, at start.
SELECT count(*) FROM sessions WHERE deleted = 0;
-- name: add_session: A new conversation.
INSERT INTO sessions (session_id, created_at, last_accessed, idle_since, metadata)
VALUES (:session_id, :now, :now, :now, :metadata);
-- name: get_session: Finds a session, also one that has expired.
SELECT session_id, created_at, last_accessed, metadata, current FROM sessions WHERE session_id = ? AND deleted = 0;
-- name: touch: Marks a session as used.
UPDATE sessions SET last_accessed = max(last_accessed, ?) WHERE session_id = ? AND deleted = 0;
-- name: go_to: Moves a conversation to a turn, or before the first, and marks it as used.
UPDATE sessions SET current = ?, last_accessed = max(last_accessed, ?) WHERE session_id = ? AND deleted = 0;
-- name: set_metadata: Replaces a session's metadata.
UPDATE sessions SET metadata = ? WHERE session_id = ? AND deleted = 0;
-- name: set_prompt: The system prompt of a conversation.
INSERT OR REPLACE INTO prompts (session_id, message_id, created_at, content) VALUES (?, ?, ?, ?);
-- name: get_prompt: The system prompt of a conversation.
SELECT message_id, created_at, content FROM prompts WHERE session_id = ?;
-- name: drop_prompt: Removes the system prompt of a conversation.
DELETE FROM prompts WHERE session_id = ?;
-- name: idle_sessions: The next batch for the sweep, longest idle first; some of them were used since it last saw them.
SELECT session_id, last_accessed FROM sessions WHERE deleted = 0 AND idle_since <= ? ORDER BY idle_since LIMIT ?;
-- name: pass_over: Takes a session that was used out of the sweep's way.
UPDATE sessions SET last_accessed = max(last_accessed, :used), idle_since = :used WHERE session_id = :session_id;

-- name: add_turn: What was said and what was answered.
INSERT INTO turns (input_count, session_id, parent, turn_id, asked_at, replied_at, finish_reason, calls, context_start,
                   context_key, model, first_token_ms, token_usage, idempotency_key, request_hash, response_id,
                   response, input, output, reasoning, layout, chunk_ends)
VALUES (:input_count, :session_id, :parent, :turn_id, :asked_at, :replied_at, :finish_reason, :calls, :context_start,
        :context_key, :model, :first_token_ms, :token_usage, :idempotency_key, :request_hash, :response_id,
        :response, :input, :output, :reasoning, :layout, :chunk_ends);
-- name: turns_up: Whole turns: one, what it follows, what that follows …; at most as many as are wanted (-1: all).
WITH RECURSIVE up(seq) AS (SELECT ? UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq))
SELECT seq, session_id, parent, turn_id, asked_at, replied_at, finish_reason, calls, context_start, context_key, model,
       first_token_ms, token_usage, idempotency_key, request_hash, response_id, response, input, output, reasoning,
       layout, chunk_ends
FROM up CROSS JOIN turns USING (seq) LIMIT ?;
-- name: path: The number of a turn and those of what it follows, upwards, as long as they are above another number.
WITH RECURSIVE up(seq) AS (SELECT ? UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq) WHERE parent > ?)
SELECT seq FROM up;
-- name: count_path: How many messages a path has.
WITH RECURSIVE up(seq, messages) AS (
    SELECT ?, 0 UNION ALL SELECT parent, input_count + (finish_reason IS NOT NULL) FROM up CROSS JOIN turns USING (seq)
) SELECT sum(messages) FROM up;
-- name: below: Of a turn and all that follows: how many messages, the newest, and whether :current is among them.
WITH RECURSIVE below(seq) AS (
    SELECT :seq UNION ALL SELECT t.seq
    FROM below CROSS JOIN turns AS t ON t.session_id = :session_id AND t.parent = below.seq
    WHERE NOT EXISTS (SELECT 1 FROM removals WHERE root = t.seq)
)
SELECT sum(input_count + (finish_reason IS NOT NULL)), max(seq), max(seq IS :current)
FROM below CROSS JOIN turns USING (seq);
-- name: children: What follows a turn directly, oldest first.
SELECT seq, turn_id, finish_reason, input FROM turns
WHERE session_id = ? AND parent IS ? AND NOT EXISTS (SELECT 1 FROM removals WHERE root = seq) ORDER BY seq;
-- name: session_of_turn: Whose a turn is, and how its reply ended, if it has one.
SELECT session_id, finish_reason FROM turns WHERE seq = ?;
-- name: find_turn: The turn whose reply has this id, that a key stands for, or that OpenAI's door calls by this id.
SELECT seq FROM turns WHERE turn_id = :turn_id OR idempotency_key = :key OR response_id = :response_id;
-- name: set_input: Replaces what was said in a turn, after a message was deleted alone.
UPDATE turns SET input = ?, input_count = ? WHERE seq = ?;
-- name: drop_output: Deletes a turn's reply alone; its idempotency key has nothing to stand for then.
UPDATE turns SET output = NULL, finish_reason = NULL, calls = 0, token_usage = NULL, reasoning = NULL, layout = NULL,
                 chunk_ends = NULL, idempotency_key = NULL, request_hash = NULL WHERE seq = ?;
-- name: forget_response: A turn is a turn like others, and no response any more, which a key could stand for.
UPDATE turns SET response_id = NULL, response = NULL, idempotency_key = NULL, request_hash = NULL WHERE seq = ?;
-- name: adopt: What follows a turn follows what that one follows.
UPDATE turns SET parent = ? WHERE session_id = ? AND parent = ?;

-- name: marked: What a kill left to be removed: sessions (0), and turns with all that follows.
SELECT session_id, 0 FROM sessions WHERE deleted = 1
UNION ALL SELECT session_id, root FROM removals CROSS JOIN turns ON seq = root;
-- name: mark_session: A session is gone, for everybody and at once.
UPDATE sessions SET deleted = 1 WHERE session_id = ?;
-- name: mark_turn: A turn and all that follows from it is gone, at once.
INSERT OR IGNORE INTO removals (root) SELECT seq FROM turns WHERE seq = ?;
-- name: some_children: Some of the turns that follow another directly (-1: all), also those that are gone.
SELECT seq FROM turns WHERE session_id = ? AND parent IS ? LIMIT ?;
-- name: drop_turn: Removes a turn.
DELETE FROM turns WHERE seq = ?;
-- name: drop_any_turn: Removes a turn of a session that is gone.
DELETE FROM turns WHERE seq = (SELECT seq FROM turns WHERE session_id = ? LIMIT 1);
-- name: drop_any_background: Removes a response that was accepted in a session that is gone.
DELETE FROM background WHERE response_id = (SELECT response_id FROM background WHERE session_id = ? LIMIT 1);
-- name: drop_session: Removes what is left of a session; what is kept with it follows by cascade.
DELETE FROM sessions WHERE session_id = ?;

-- name: add_background: A response is accepted, and will run.
INSERT INTO background (response_id, session_id, created_at, response) VALUES (?, ?, ?, ?);
-- name: get_background: A response that was accepted and has no turn yet.
SELECT response_id, session_id, created_at, response, error FROM background WHERE response_id = ?;
-- name: fail_background: A response failed.
UPDATE background SET error = ?, failed_at = ? WHERE response_id = ? AND error IS NULL;
-- name: fail_all_background: What ran when the process died has failed.
UPDATE background SET error = ?, failed_at = ? WHERE error IS NULL;
-- name: drop_background: A response has its turn now, or is deleted.
DELETE FROM background WHERE response_id = ?;
-- name: drop_old_background: A response that failed long ago.
DELETE FROM background WHERE response_id = (SELECT response_id FROM background WHERE failed_at <= ? LIMIT 1);
-- name: get_secret: A secret of this database's own.
SELECT value FROM secrets WHERE name = ?;
