-- After the tables: what none of them may lack, the partitions, the triggers.

SELECT cdp.set_compression(c.oid)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'cdp_data'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition;

SELECT cdp.secure_table(c.oid)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'cdp_data'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p');

SELECT cdp.make_partitions(cdp.now());

CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.version
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.workspace
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.workspace_role
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.source
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.namespace
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE OR REPLACE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp_data.trait_class
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
