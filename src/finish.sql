-- Last part of the set-up script: the first workspace with its rules and the
-- SQL source, once; and what the views need.

DO $$
DECLARE
	first integer;
BEGIN
	IF NOT EXISTS (SELECT FROM cdp_data.workspace) THEN
		INSERT INTO cdp_data.workspace (name) VALUES ('default') RETURNING workspace_id INTO first;
		INSERT INTO cdp_data.workspace_role (role_name, workspace_id) VALUES ('public', first);
		PERFORM cdp.make_default_namespaces(first);
		INSERT INTO cdp_data.source (workspace_id, name, format) VALUES (first, 'sql', 'segment');
	END IF;
END
$$;

SELECT cdp.secure_views();
