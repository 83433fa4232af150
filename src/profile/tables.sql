-- People: fragments, their declared traits, and what must be computed again.

CREATE TABLE IF NOT EXISTS cdp_data.profile (
	fragment_id bigint NOT NULL CONSTRAINT profile_pkey PRIMARY KEY,
	profile_id bigint NOT NULL,
	contest_id bigint NOT NULL,
	event_count bigint NOT NULL,
	months bigint NOT NULL,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	eval_at timestamptz NOT NULL,
	next_due timestamptz NOT NULL,
	workspace_id integer NOT NULL
) WITH (fillfactor = 60);
CREATE INDEX IF NOT EXISTS profile_profile_id_idx ON cdp_data.profile (profile_id);
CREATE INDEX IF NOT EXISTS profile_contest_id_idx ON cdp_data.profile (contest_id) WHERE contest_id <> 0;
COMMENT ON TABLE cdp_data.profile IS 'One row a fragment; a profile is the rows with its profile_id, nearly always one.';
COMMENT ON COLUMN cdp_data.profile.fragment_id IS 'Key; a merged-away profile id is still here.';
COMMENT ON COLUMN cdp_data.profile.profile_id IS 'The person: the least fragment_id of the fragments that are one.';
COMMENT ON COLUMN cdp_data.profile.contest_id IS 'Contested component; 0: none.';
COMMENT ON COLUMN cdp_data.profile.event_count IS 'Stored events of the fragment.';
COMMENT ON COLUMN cdp_data.profile.months IS 'Bit m mod 64 is set when month m since 1970 may hold events.';
COMMENT ON COLUMN cdp_data.profile.first_seen IS 'Least occurred_at of its events; infinity: none.';
COMMENT ON COLUMN cdp_data.profile.last_seen IS 'Greatest occurred_at of its events; -infinity: none.';
COMMENT ON COLUMN cdp_data.profile.eval_at IS 'Instant of the last batch that changed it.';
COMMENT ON COLUMN cdp_data.profile.next_due IS 'Lower bound of the next instant at which time alone changes something; infinity: never.';
COMMENT ON COLUMN cdp_data.profile.workspace_id IS 'Workspace.';

CREATE TABLE IF NOT EXISTS cdp_data.profile_trait (
	fragment_id bigint NOT NULL,
	chunk smallint NOT NULL,
	workspace_id integer NOT NULL,
	traits jsonb NOT NULL,
	stamps bytea NOT NULL,
	CONSTRAINT profile_trait_pkey PRIMARY KEY (fragment_id, chunk)
) WITH (fillfactor = 85);
COMMENT ON TABLE cdp_data.profile_trait IS 'Declared traits of a fragment, in chunks below 1.8 kB; the newest value of each key wins.';
COMMENT ON COLUMN cdp_data.profile_trait.fragment_id IS 'Fragment.';
COMMENT ON COLUMN cdp_data.profile_trait.chunk IS 'Number of the chunk; which trait is in which is no part of the state.';
COMMENT ON COLUMN cdp_data.profile_trait.workspace_id IS 'Workspace.';
COMMENT ON COLUMN cdp_data.profile_trait.traits IS 'Values as sent; null: the trait was removed.';
COMMENT ON COLUMN cdp_data.profile_trait.stamps IS 'Version byte, then for each key in the order of traits: rank, evidence time, occurred_at, order number, source, message id.';

CREATE TABLE IF NOT EXISTS cdp_data.dirty (
	fragment_id bigint NOT NULL,
	workspace_id integer NOT NULL,
	cause text NOT NULL,
	marked_at timestamptz NOT NULL,
	CONSTRAINT dirty_pkey PRIMARY KEY (fragment_id)
);
COMMENT ON TABLE cdp_data.dirty IS 'Fragments whose state must be computed again from their events.';
COMMENT ON COLUMN cdp_data.dirty.fragment_id IS 'Fragment.';
COMMENT ON COLUMN cdp_data.dirty.workspace_id IS 'Workspace.';
COMMENT ON COLUMN cdp_data.dirty.cause IS 'What made it dirty: moved, split, purge.';
COMMENT ON COLUMN cdp_data.dirty.marked_at IS 'Instant of the batch that marked it.';
