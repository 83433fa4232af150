-- Which traits and properties may be shown to everybody who reads the views.

CREATE TABLE IF NOT EXISTS cdp_data.trait_class (
	workspace_id integer NOT NULL,
	key text COLLATE "C" NOT NULL CONSTRAINT trait_class_key_check CHECK (key <> '' AND pg_catalog.length(key) <= 255),
	class text NOT NULL CONSTRAINT trait_class_class_check CHECK (class IN ('open')),
	CONSTRAINT trait_class_pkey PRIMARY KEY (workspace_id, key)
);
COMMENT ON TABLE cdp_data.trait_class IS 'Classified keys of traits and properties; what is not here is personal.';
COMMENT ON COLUMN cdp_data.trait_class.workspace_id IS 'Workspace.';
COMMENT ON COLUMN cdp_data.trait_class.key IS 'Top-level key of traits or properties.';
COMMENT ON COLUMN cdp_data.trait_class.class IS 'open: shown to readers who see no values.';
