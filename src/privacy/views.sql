-- What was forgotten; workspaces.

CREATE OR REPLACE VIEW cdp.erasure AS
SELECT e.erasure_id,
	w.name AS workspace,
	e.erased_at,
	e.erased_by,
	e.reason,
	e.scope,
	pg_catalog.cardinality(e.tokens) AS tokens,
	e.completed_at
FROM cdp_data.erasure e
	JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) e.workspace_id
WHERE e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.erasure IS 'What cdp.forget() did: a row a call.';
COMMENT ON COLUMN cdp.erasure.erasure_id IS 'Key.';
COMMENT ON COLUMN cdp.erasure.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.erasure.erased_at IS 'Instant of the forgetting: of what it forgot, nothing older is taken in again.';
COMMENT ON COLUMN cdp.erasure.erased_by IS 'Role that asked for it.';
COMMENT ON COLUMN cdp.erasure.reason IS 'Why, in the caller''s words.';
COMMENT ON COLUMN cdp.erasure.scope IS 'profile: a whole person; fragment: what an identifier was part of before it was joined with others.';
COMMENT ON COLUMN cdp.erasure.tokens IS 'Identifiers that are not taken in again.';
COMMENT ON COLUMN cdp.erasure.completed_at IS 'When what batches of that time had left was deleted, too; NULL: not yet.';
REVOKE ALL ON cdp.erasure FROM PUBLIC;
GRANT SELECT ON cdp.erasure TO cdp_privacy_officer, cdp_auditor;

CREATE OR REPLACE VIEW cdp.workspace AS
SELECT w.workspace, w.identity_policy, w.roles, w.created_at
FROM cdp.read_workspaces() w;
COMMENT ON VIEW cdp.workspace IS 'Workspaces and who works in them: all for superusers, for others their own.';
COMMENT ON COLUMN cdp.workspace.workspace IS 'Name.';
COMMENT ON COLUMN cdp.workspace.identity_policy IS 'What is done when a limit is broken: demote or components (cdp.set_identity_policy).';
COMMENT ON COLUMN cdp.workspace.roles IS 'Roles that were granted it (cdp.grant_workspace), public: everybody; NULL: none.';
COMMENT ON COLUMN cdp.workspace.created_at IS 'When it was made.';
REVOKE ALL ON cdp.workspace FROM PUBLIC;
GRANT SELECT ON cdp.workspace TO cdp_admin, cdp_privacy_officer, cdp_auditor;
