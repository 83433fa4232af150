-- Namespaces and the identity policy: rules, bounds, blocked and invalid values.
\set VERBOSITY terse
SELECT cdp.set_namespace('card', priority => 3, value_limit => 2, limit_window => '30 days', normaliser => 'trim,lower',
	valid => 'c-[0-9]+', blocked => '{c-0,i:C-TEST,re:c-9+}');
SELECT name, priority, level, value_limit, limit_window, degree, owner, normaliser, valid, blocked, weight FROM cdp.namespace WHERE name = 'card';
-- what is not named stays
SELECT cdp.set_namespace('card', priority => 4);
SELECT name, priority, value_limit, limit_window, owner, valid FROM cdp.namespace WHERE name = 'card';
-- refused
SELECT cdp.set_namespace('profile_id');
SELECT cdp.set_namespace('');
SELECT cdp.set_namespace('card', priority => 0);
SELECT cdp.set_namespace('card', level => 'planet');
SELECT cdp.set_namespace('card', value_limit => 0);
SELECT cdp.set_namespace('card', limit_window => '0');
SELECT cdp.set_namespace('card', limit_window => '-2 days');
SELECT cdp.set_namespace('card', normaliser => 'shout');
SELECT cdp.set_namespace('card', valid => '(');
SELECT cdp.set_namespace('card', blocked => '{re:(}');
SELECT cdp.set_namespace('card', weight => 2);
SELECT cdp.set_identity_policy('guess');
-- priority after the others, as far as there is one
BEGIN;
SELECT cdp.set_namespace('last', priority => 10000);
SELECT cdp.set_namespace('later');
SELECT priority FROM cdp.namespace WHERE name = 'later';
ROLLBACK;
-- normalised, valid, unblocked
CREATE FUNCTION pg_temp.card(text, text) RETURNS text LANGUAGE sql AS $$
	SELECT outcome FROM cdp.ingest(jsonb_build_object('type', 'track', 'event', 'Paid', 'messageId', $1, 'userId', 'ns-1',
		'context', jsonb_build_object('externalIds', jsonb_build_array(jsonb_build_object('type', 'card', 'id', $2))))) $$;
SELECT pg_temp.card('ns-1', ' C-12 ');
SELECT pg_temp.card('ns-2', 'c-0');
SELECT pg_temp.card('ns-3', 'c-test');
SELECT pg_temp.card('ns-4', 'c-99');
SELECT pg_temp.card('ns-5', 'plastic');
SELECT namespace, value FROM cdp.identifier WHERE profile_id = cdp.find_profile('user_id', 'ns-1') ORDER BY 1;
SELECT cdp.find_profile('card', 'C-12') = cdp.find_profile('user_id', 'ns-1') AS same_person;
SELECT cdp.find_profile('card', 'c-0');
SELECT cdp.find_profile('nowhere', 'x');
-- only blocked identifiers: stored for nobody
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "anonymous", "messageId": "ns-6"}');
SELECT profile_id, user_id FROM cdp.event WHERE message_id = 'ns-6';
-- a limit: the third card of the month is demoted, the person stays as it is
SELECT pg_temp.card('ns-7', 'c-13');
SELECT pg_temp.card('ns-8', 'c-14');
SELECT value, profile_id IS NULL AS nobody, state FROM cdp.identifier WHERE namespace = 'card' ORDER BY 1;
SELECT count(*) FROM cdp.verify();
-- rules that changed between two deliveries: what the earlier one presents today is no link, and moves nothing
CREATE FUNCTION pg_temp.paid(text, text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('type', 'track', 'event', 'Paid', 'messageId', 'ns-20', 'userId', 'ns-20', 'timestamp', '2026-03-02T00:00:00Z',
		'receivedAt', $1, 'context', jsonb_build_object('externalIds', jsonb_build_array(jsonb_build_object('type', 'card', 'id', $2)))) $$;
SELECT outcome FROM cdp.ingest(pg_temp.paid('2026-03-02T00:00:00Z', 'c-0'));
SELECT cdp.set_namespace('card', blocked => '{}');
SELECT outcome FROM cdp.ingest(jsonb_build_array(pg_temp.paid('2026-03-01T00:00:00Z', 'c-0'),
	pg_temp.paid('2026-03-02T00:00:00Z', 'c-0') - 'userId' || '{"messageId": "ns-21"}'));
SELECT cdp.find_profile('card', 'c-0') <> cdp.find_profile('user_id', 'ns-20') AS apart;
SELECT * FROM cdp.verify();
-- the same when nobody is known of them any more
DELETE FROM cdp_data.event WHERE message_id = 'ns-21';
DELETE FROM cdp_data.profile WHERE fragment_id = cdp.find_profile('card', 'c-0');
DELETE FROM cdp_data.identifier WHERE value = 'c-0';
SELECT outcome FROM cdp.ingest(pg_temp.paid('2026-03-01T00:00:00Z', 'c-0') - 'userId' || '{"messageId": "ns-21"}');
SELECT cdp.find_profile('card', 'c-0');
SELECT * FROM cdp.verify();
