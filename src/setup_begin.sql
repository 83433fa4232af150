-- Set-up script, assembled from the folders of src and run by cdp.setup() as
-- cdp_owner.  It may be run again: every statement makes what is missing and
-- leaves alone what is there.  Its schemas, cdp and cdp_data, belong to
-- cdp_owner and nobody else may create in them, so what is there is ours.

SET LOCAL search_path = pg_catalog, pg_temp;

