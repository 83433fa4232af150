-- Events, and the messages that were set aside.

CREATE OR REPLACE VIEW cdp.event AS
SELECT e.event_id,
	w.name AS workspace,
	s.name AS source,
	e.message_id,
	e.type,
	e.name,
	e.occurred_at,
	e.received_at,
	e.original_at,
	e.sent_at,
	p.profile_id,
	CASE WHEN e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN e.user_id END AS user_id,
	CASE WHEN e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN e.anonymous_id END AS anonymous_id,
	CASE WHEN e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN e.properties ELSE cdp.mask_properties(e.properties, e.workspace_id) END AS properties,
	CASE WHEN e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN e.traits ELSE cdp.mask_traits(e.traits, e.workspace_id) END AS traits,
	CASE WHEN e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN e.context ELSE cdp.mask_context(e.context) END AS context,
	e.topic,
	e."partition",
	e."offset"
FROM cdp_data.event e
	LEFT JOIN cdp_data.profile p ON p.fragment_id OPERATOR(pg_catalog.=) e.fragment_id
	LEFT JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) e.workspace_id
	LEFT JOIN cdp_data.source s ON s.source_id OPERATOR(pg_catalog.=) e.source_id
WHERE e.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.event IS 'Stored events, each with the person it belongs to now.';
COMMENT ON COLUMN cdp.event.event_id IS 'Label of the event; its order says nothing.';
COMMENT ON COLUMN cdp.event.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.event.source IS 'Source of the delivery that defines its times; NULL when the source was dropped.';
COMMENT ON COLUMN cdp.event.message_id IS 'Id of the message as sent, or derived from it.';
COMMENT ON COLUMN cdp.event.type IS 'Call: track, identify, page, screen, group, alias.';
COMMENT ON COLUMN cdp.event.name IS 'Event, page or screen name.';
COMMENT ON COLUMN cdp.event.occurred_at IS 'When it happened, corrected for the clock of the device.';
COMMENT ON COLUMN cdp.event.received_at IS 'When it was first received: by the collector, else by Kafka; from SQL without either the stamp of the device, else now.';
COMMENT ON COLUMN cdp.event.original_at IS 'The device''s own time stamp as sent.';
COMMENT ON COLUMN cdp.event.sent_at IS 'When the device sent it, by its own clock.';
COMMENT ON COLUMN cdp.event.profile_id IS 'The person; NULL: nobody.';
COMMENT ON COLUMN cdp.event.user_id IS 'User id as sent; NULL for who sees no values.';
COMMENT ON COLUMN cdp.event.anonymous_id IS 'Anonymous id as sent; NULL for who sees no values.';
COMMENT ON COLUMN cdp.event.properties IS 'Properties as sent; without keys that usually carry identifiers for who sees no values.';
COMMENT ON COLUMN cdp.event.traits IS 'Traits as sent; only keys classified as open for who sees no values.';
COMMENT ON COLUMN cdp.event.context IS 'Context as sent, with top-level fields that have no column; software, locale and campaign only for who sees no values.';
COMMENT ON COLUMN cdp.event.topic IS 'Kafka topic; NULL from SQL.';
COMMENT ON COLUMN cdp.event."partition" IS 'Partition of the topic; NULL from SQL.';
COMMENT ON COLUMN cdp.event."offset" IS 'Offset in the partition; NULL from SQL.';
REVOKE ALL ON cdp.event FROM PUBLIC;
GRANT SELECT ON cdp.event TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer;

CREATE OR REPLACE VIEW cdp.quarantine AS
SELECT q.quarantine_id AS id,
	w.name AS workspace,
	s.name AS source,
	q.topic,
	q."partition",
	q."offset",
	q.reason,
	q.detail,
	q.attempts,
	q.quarantined_at,
	CASE WHEN q.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN q.body END AS body,
	CASE WHEN q.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN cdp.utf8_text(q.body) END AS body_text,
	CASE WHEN q.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN cdp.header_object(q.headers) END AS headers
FROM cdp_data.quarantine q
	LEFT JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) q.workspace_id
	LEFT JOIN cdp_data.source s ON s.source_id OPERATOR(pg_catalog.=) q.source_id
WHERE q.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.quarantine IS 'Messages that were set aside, with the reason; repair and replay them with cdp.replay_quarantine().';
COMMENT ON COLUMN cdp.quarantine.id IS 'Key, for cdp.replay_quarantine().';
COMMENT ON COLUMN cdp.quarantine.workspace IS 'Workspace of the source.';
COMMENT ON COLUMN cdp.quarantine.source IS 'Source; NULL when it was dropped.';
COMMENT ON COLUMN cdp.quarantine.topic IS 'Kafka topic; NULL from SQL.';
COMMENT ON COLUMN cdp.quarantine."partition" IS 'Partition of the topic; NULL from SQL.';
COMMENT ON COLUMN cdp.quarantine."offset" IS 'Offset in the partition; NULL from SQL.';
COMMENT ON COLUMN cdp.quarantine.reason IS 'Why, one of the documented reasons.';
COMMENT ON COLUMN cdp.quarantine.detail IS 'More, without personal data.';
COMMENT ON COLUMN cdp.quarantine.attempts IS 'How often the message was tried.';
COMMENT ON COLUMN cdp.quarantine.quarantined_at IS 'When it was set aside.';
COMMENT ON COLUMN cdp.quarantine.body IS 'The bytes of the message, or of the element of an array; NULL for who sees no values.';
COMMENT ON COLUMN cdp.quarantine.body_text IS 'The bytes as text; NULL if they are not UTF-8, and for who sees no values.';
COMMENT ON COLUMN cdp.quarantine.headers IS 'Headers of the Kafka record as an object of texts; NULL if it had none or the format does not read them, and for who sees no values.';
REVOKE ALL ON cdp.quarantine FROM PUBLIC;
GRANT SELECT ON cdp.quarantine TO cdp_admin, cdp_privacy_officer, cdp_auditor;
