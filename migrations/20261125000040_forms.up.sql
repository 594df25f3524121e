-- Forms: what an organization's users fill in to run a workflow, and which roles reach them.
CREATE TABLE forms (
    id                     UUID PRIMARY KEY,
    organization_id        UUID REFERENCES organizations,
    name                   TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description            TEXT,
    workflow_id            TEXT,
    launch_workflow_id     TEXT,
    default_launch_params  JSON,
    allowed_query_params   JSON,
    form_schema            JSON NOT NULL,
    access_level           TEXT CHECK (access_level IN ('public', 'authenticated', 'role_based')),
    is_active              BOOLEAN NOT NULL DEFAULT TRUE,
    created_by             TEXT NOT NULL,
    created_at             TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at             TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX forms_organization_idx ON forms (organization_id, name COLLATE "C", id);
CREATE INDEX forms_name_idx ON forms (name COLLATE "C", id);
COMMENT ON COLUMN forms.workflow_id IS 'Id of the workflow; it need not exist yet, files may arrive in any order.';
COMMENT ON COLUMN forms.form_schema IS 'JSON and not JSONB: members come back in the order they were given.';
COMMENT ON COLUMN forms.access_level IS 'NULL counts as role_based.';

CREATE TABLE form_roles (
    form_id          UUID NOT NULL REFERENCES forms ON DELETE CASCADE,
    role_id          UUID NOT NULL REFERENCES roles ON DELETE CASCADE,
    organization_id  UUID REFERENCES organizations,
    assigned_by      TEXT NOT NULL,
    assigned_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (form_id, role_id)
);
CREATE INDEX form_roles_role_idx ON form_roles (role_id, form_id);
COMMENT ON COLUMN form_roles.organization_id IS 'That of the role.';

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['forms', 'form_roles'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bifrost_system, bifrost_app', name);
        EXECUTE format('CREATE POLICY scope_read ON %I FOR SELECT TO bifrost_app USING (in_cascade(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_insert ON %I FOR INSERT TO bifrost_app WITH CHECK (in_scope(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_update ON %I FOR UPDATE TO bifrost_app USING (in_scope(organization_id)) WITH CHECK (in_scope(organization_id))', name);
        EXECUTE format('CREATE POLICY scope_delete ON %I FOR DELETE TO bifrost_app USING (in_scope(organization_id))', name);
    END LOOP;
END
$$;
REVOKE DELETE ON forms FROM bifrost_app;
