-- Everything the server says to SQLite: first the tables, then every statement.
--
-- A "-- name:" line says what the statement after it is for, which is run by a method of chatbot/storage/. Times are
-- whole milliseconds since 1970 (UTC). Ids are UUIDs as text.

-- name: schema: Run once, for a new database.
CREATE TABLE sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,
    current       INTEGER,                          -- the turn that the conversation is at; NULL: before the first
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- The sweep reads those that are idle and no others.
CREATE INDEX sessions_by_idleness ON sessions (last_accessed);
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
    session_id      TEXT    NOT NULL,               -- no foreign keys here: a cascade takes long, and fails on long chains
    parent          INTEGER,                        -- the turn it follows
    turn_id         TEXT    NOT NULL UNIQUE,        -- the reply's id; ids of what was said count from it: 001 …
    asked_at        INTEGER NOT NULL,
    replied_at      INTEGER NOT NULL,
    finish_reason   TEXT,                           -- NULL: nothing was answered, a client only added messages
    input_count     INTEGER NOT NULL,               -- how many messages were said, without those deleted alone
    calls           INTEGER NOT NULL DEFAULT 0,     -- how many tool calls the reply made
    context_start   INTEGER,                        -- the turn with which its context began; NULL: itself
    context_key     TEXT,                           -- what stood before the turns, as a hash, and why it began there
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
    layout          TEXT,                           -- JSON: [[kind or number of the call, characters], …]; NULL: text alone
    chunk_ends      BLOB,                           -- how many characters each of the LLM's chunks had, each as a character
    CHECK ((output IS NULL) = (finish_reason IS NULL))
) STRICT;

-- Serves versions (what follows the same turn), subtrees and whole conversations.
CREATE INDEX turns_by_parent ON turns (session_id, parent);
-- One reply a key and one turn a response; most turns have neither.
CREATE UNIQUE INDEX turns_by_key ON turns (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX turns_by_response ON turns (response_id) WHERE response_id IS NOT NULL;

-- What is gone for everybody, and is being removed: turns, whose marks go with them, and all that sessions had.
CREATE TABLE gone (seq INTEGER PRIMARY KEY REFERENCES turns (seq) ON DELETE CASCADE) STRICT;
CREATE TABLE gone_sessions (session_id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE VIEW alive AS SELECT * FROM turns WHERE seq NOT IN gone AND session_id NOT IN gone_sessions;

-- Responses that were accepted before they ran. A row goes when its turn is stored; one that failed stays an hour, or longer.
CREATE TABLE background (
    response_id TEXT    NOT NULL PRIMARY KEY,
    session_id  TEXT    NOT NULL,                   -- no foreign key, as in turns
    created_at  INTEGER NOT NULL,
    response    TEXT    NOT NULL,                   -- as in turns
    error       TEXT                                -- JSON: what it failed of; NULL: it runs, or the process died
) STRICT, WITHOUT ROWID;
CREATE INDEX background_by_session ON background (session_id);
-- What only this database knows: the key of the hashes by which LLM servers tell conversations apart.
CREATE TABLE secrets (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('affinity', randomblob(32));

-- The history for a plain SELECT: a row for each message of each branch.
CREATE VIEW messages AS
SELECT message_id, session_id, 'system' AS role, content, created_at, NULL AS token_usage FROM prompts
UNION ALL
SELECT substr(turn_id, 1, 33) || printf('%03x', m.key + 1), session_id, m.value ->> 'role',
       m.value ->> 'content', asked_at, NULL
FROM alive, json_each('[' || replace(input, char(10), ',') || ']') AS m WHERE m.type = 'object'
UNION ALL
SELECT turn_id, session_id, 'assistant', output ->> 'content', replied_at, token_usage
FROM alive WHERE output IS NOT NULL;

-- name: count_sessions: How many sessions there are; asked once, at start.
SELECT count(*) FROM sessions;
-- name: add_session: A new conversation.
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
-- name: set_prompt: The system prompt of a conversation.
INSERT OR REPLACE INTO prompts (session_id, message_id, created_at, content) VALUES (?, ?, ?, ?);
-- name: get_prompt: The system prompt of a conversation.
SELECT message_id, created_at, content FROM prompts WHERE session_id = ?;
-- name: drop_prompt: Removes the system prompt of a conversation.
DELETE FROM prompts WHERE session_id = ?;
-- name: idle_sessions: The next batch for the sweep.
SELECT session_id FROM sessions WHERE last_accessed <= ? LIMIT ?;

-- name: add_turn: What was said and what was answered.
INSERT INTO turns (input_count, session_id, parent, turn_id, asked_at, replied_at, finish_reason, calls, context_start,
                   context_key, model, first_token_ms, token_usage, idempotency_key, request_hash, response_id,
                   response, input, output, reasoning, layout, chunk_ends)
VALUES (:input_count, :session_id, :parent, :turn_id, :asked_at, :replied_at, :finish_reason, :calls, :context_start,
        :context_key, :model, :first_token_ms, :token_usage, :idempotency_key, :request_hash, :response_id,
        :response, :input, :output, :reasoning, :layout, :chunk_ends);
-- name: turns_up: Whole turns: one that has a name, what it follows, what that follows …; at most so many (-1: all).
WITH RECURSIVE up(seq) AS (
    SELECT seq FROM alive
    WHERE seq = :seq OR turn_id = :turn_id OR idempotency_key = :key OR response_id = :response_id
    UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq)
)
SELECT seq, session_id, parent, turn_id, asked_at, replied_at, finish_reason, calls, context_start, context_key, model,
       first_token_ms, token_usage, idempotency_key, request_hash, response_id, response, input, output, reasoning,
       layout, chunk_ends
FROM up CROSS JOIN turns USING (seq) LIMIT :limit;
-- name: path: The number of a turn and those of what it follows, upwards, as long as they are above another number.
WITH RECURSIVE up(seq) AS (
    SELECT seq FROM alive WHERE seq = :seq AND seq > :above
    UNION ALL SELECT parent FROM up CROSS JOIN turns USING (seq) WHERE parent > :above
) SELECT seq FROM up;
-- name: count_path: How many messages a path has.
WITH RECURSIVE up(seq, messages) AS (
    SELECT ?, 0 UNION ALL SELECT parent, input_count + (finish_reason IS NOT NULL) FROM up CROSS JOIN turns USING (seq)
) SELECT sum(messages) FROM up;
-- name: below: Of a turn and all that follows: how many messages, the newest, and the numbers as JSON.
WITH RECURSIVE below(session_id, seq) AS (
    SELECT session_id, seq FROM alive WHERE seq = ?
    UNION ALL SELECT session_id, t.seq FROM below CROSS JOIN turns AS t USING (session_id)
    WHERE t.parent = below.seq AND t.seq NOT IN gone
) SELECT total(input_count + (finish_reason IS NOT NULL)), max(seq), json_group_array(seq)
FROM below CROSS JOIN turns USING (seq);
-- name: children: What follows a turn directly, oldest first, if that are at least so many.
SELECT seq, turn_id, finish_reason, input FROM alive
WHERE session_id = :session_id AND parent IS :parent AND :least <= (
    SELECT count(*) FROM (SELECT 1 FROM turns WHERE session_id = :session_id AND parent IS :parent LIMIT :least)
) ORDER BY seq;
-- name: session_of_turn: Whose a turn is, and how its reply ended, if it has one.
SELECT session_id, finish_reason FROM alive WHERE seq = ?;
-- name: keep_only: Deletes of a turn some of what was said and answered, for which no key can stand then.
UPDATE turns SET input = :input, input_count = :input_count, output = :output, calls = coalesce(:calls, 0),
                 reasoning = :reasoning, layout = :layout, chunk_ends = :chunk_ends, token_usage = NULL,
                 finish_reason = iif(:output IS NULL, NULL, 'stop'), idempotency_key = NULL, request_hash = NULL
WHERE seq = :seq;
-- name: forget_response: A turn is a turn like others, and no response any more, which a key could stand for.
UPDATE turns SET response_id = NULL, response = NULL, idempotency_key = NULL, request_hash = NULL WHERE seq = ?;

-- name: mark: Some turns are gone, at once.
INSERT OR IGNORE INTO gone SELECT value FROM json_each(?);
-- name: mark_session: All that a session has is gone, at once.
INSERT OR IGNORE INTO gone_sessions VALUES (?);
-- name: leave_gone: A session that was at a turn that is gone is at another, or before the first.
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
-- name: drop_mark: Removes the mark of a session of which nothing is left.
DELETE FROM gone_sessions WHERE session_id = (SELECT session_id FROM gone_sessions LIMIT 1);
-- name: drop_gone_by_key: Removes the turn that an idempotency key stood for, if that turn is gone.
DELETE FROM turns WHERE idempotency_key = ? AND seq NOT IN (SELECT seq FROM alive WHERE seq = turns.seq);
-- name: drop_session: Removes a session and its prompt.
DELETE FROM sessions WHERE session_id = ?;

-- name: add_background: A response is accepted, and will run.
INSERT INTO background (response_id, session_id, created_at, response) VALUES (?, ?, ?, ?);
-- name: drop_failed: Removes some of what failed in a session before then.
DELETE FROM background WHERE response_id IN (SELECT response_id FROM background
    WHERE session_id = ? AND created_at <= ? AND error IS NOT NULL LIMIT 4);
-- name: get_background: A response that was accepted and has no turn yet.
SELECT response_id, session_id, created_at, response, error FROM background
WHERE response_id = ? AND session_id NOT IN gone_sessions;
-- name: fail_background: A response failed.
UPDATE background SET error = ? WHERE response_id = ? AND error IS NULL;
-- name: drop_background: A response has its turn now, or is deleted.
DELETE FROM background WHERE response_id = ?;
-- name: get_secret: A secret of this database's own.
SELECT value FROM secrets WHERE name = ?;
