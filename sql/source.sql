-- Sources: what is refused and why, and what a source looks like.
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT cdp.create_source(NULL);
SELECT cdp.create_source('');
SELECT cdp.create_source('shop', brokers => 'broker.example:9092');
SELECT cdp.create_source('shop', topics => '{events}');
SELECT cdp.create_source('shop', brokers => 'broker.example:9092', topics => '{}');
-- brokers: librdkafka would pass over these, or read another port
SELECT cdp.create_source('shop', brokers => '', topics => '{t}');
SELECT cdp.create_source('shop', brokers => 'http://b:9092', topics => '{t}');
SELECT cdp.create_source('shop', brokers => 'b:9092;c:9092', topics => '{t}');
SELECT cdp.create_source('shop', brokers => 'b:9092, c:99999', topics => '{t}');
SELECT cdp.create_source('shop', brokers => 'b:9092,[::1', topics => '{t}');
BEGIN;
SELECT cdp.create_source('shop', brokers => 'b, c-1.example:9092 ,[::1]:9092,10.0.0.1', topics => '{t}');
ROLLBACK;
SELECT cdp.create_source('shop', format => 'avro');
SELECT cdp.create_source('shop', workspace => 'nowhere');
SELECT cdp.create_source('shop', workers => 0);
-- options: known names and types only
SELECT cdp.create_source('shop', options => '{"colour": "red"}');
SELECT cdp.create_source('shop', options => '[1]');
SELECT cdp.create_source('shop', options => '{"skew": "sometimes"}');
\set SHOW_CONTEXT errors
SELECT cdp.create_source('shop', options => '{"max_future": "soon"}');
\set SHOW_CONTEXT never
SELECT cdp.create_source('shop', options => '{"trust_received_at": "yes"}');
-- of librdkafka's options those that are ours, and secrets, are refused
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"group.id": "mine"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"isolation.level": "read_uncommitted"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"sasl.password": "hidden"}}');
-- so are files outside the directory of certificates; its name depends on the server
\set VERBOSITY terse
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"security.protocol": "ssl", "ssl.ca.location": "/etc/shadow"}}');
\set VERBOSITY default
-- SASL takes a mechanism and a user, and what has no effect is a mistake
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"security.protocol": "sasl_ssl", "sasl.username": "u"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"sasl.username": "u"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"client": {"security.protocol": "sasl_plaintext", "ssl.endpoint.identification.algorithm": "https"}}');
SELECT cdp.create_source('shop', brokers => 'b:1', topics => '{t}', options => '{"secret": ""}');
SELECT cdp.create_source('shop', options => '{"secret": "web"}');
-- one that is right
SELECT cdp.create_source('shop', brokers => 'broker.example:9092', topics => '{orders,visits}', workers => 2,
	options => '{"skew": "quantum", "client": {"fetch.wait.max.ms": "10"}}');
SELECT cdp.create_source('shop');
SELECT source, workspace, brokers, topics, format, workers, paused FROM cdp.source WHERE source = 'shop';
SELECT cdp.alter_source('shop', topics => '{orders}', workers => 1);
SELECT cdp.pause_source('shop');
SELECT topics, workers, paused FROM cdp.source WHERE source = 'shop';
SELECT cdp.resume_source('shop');
SELECT paused FROM cdp.source WHERE source = 'shop';
SELECT cdp.alter_source('shop', options => '{"colour": "red"}');
-- the default source stays what it is
SELECT cdp.alter_source('sql', brokers => 'broker.example:9092', topics => '{t}');
-- a very long interval is as good as infinity
SELECT cdp.create_source('patient', options => '{"max_future": "170000000 years"}');
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "source-u", "messageId": "far", "receivedAt": "2026-01-01T00:00:00Z", "timestamp": "2999-01-01T00:00:00Z"}', 'patient');
SELECT original_at = occurred_at AS taken FROM cdp.event WHERE message_id = 'far';
-- names that nobody has
SELECT cdp.alter_source('nobody');
SELECT cdp.pause_source('nobody');
SELECT cdp.resume_source('nobody');
SELECT cdp.drop_source('nobody');
SELECT cdp.wait_for_source('nobody', '1 s');
-- a source that is made in this transaction has no worker yet
BEGIN;
SELECT cdp.create_source('young', brokers => 'broker.example:9092', topics => '{t}');
SELECT cdp.wait_for_source('young', '1 s');
ROLLBACK;
SELECT cdp.drop_source('shop');
SELECT count(*) FROM cdp.source WHERE source IN ('shop', 'young');
-- who may
CREATE ROLE regress_cdp_nobody;
SET ROLE regress_cdp_nobody;
SELECT cdp.create_source('mine');
RESET ROLE;
DROP ROLE regress_cdp_nobody;
