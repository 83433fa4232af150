-- cdp.inbox: a view to write to.

CREATE OR REPLACE VIEW cdp.inbox AS
SELECT NULL::text AS message, NULL::text AS source
WHERE false;
COMMENT ON VIEW cdp.inbox IS 'Write messages here with INSERT or COPY: each statement is applied as one batch, visible to the writer at once.';
COMMENT ON COLUMN cdp.inbox.message IS 'The message, in the format of its source.';
COMMENT ON COLUMN cdp.inbox.source IS 'An SQL source; NULL: sql.';
REVOKE ALL ON cdp.inbox FROM PUBLIC;
GRANT INSERT ON cdp.inbox TO cdp_ingest;

CREATE OR REPLACE TRIGGER inbox_begin BEFORE INSERT ON cdp.inbox
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.inbox_begin();
CREATE OR REPLACE TRIGGER inbox_row INSTEAD OF INSERT ON cdp.inbox
	FOR EACH ROW EXECUTE FUNCTION cdp.inbox_row();
CREATE OR REPLACE TRIGGER inbox_end AFTER INSERT ON cdp.inbox
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.inbox_end();
