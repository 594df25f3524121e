-- Branding: how the pages of the whole installation look, for everybody alike and before anybody has signed in.
CREATE TABLE branding (
    is_the_one     BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (is_the_one),
    primary_color  TEXT CHECK (primary_color ~ '^#([0-9a-f]{3}|[0-9a-f]{6})$'),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON COLUMN branding.is_the_one IS 'There is one row.';

CREATE TABLE branding_logos (
    logo_type   TEXT PRIMARY KEY CHECK (logo_type IN ('square', 'rectangle')),
    media_type  TEXT NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/svg+xml')),
    content     BYTEA NOT NULL CHECK (length(content) <= 5 * 1024 * 1024),
    etag        TEXT NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON COLUMN branding_logos.etag IS 'The first 16 hexadecimal digits of the SHA-256 of the content.';

ALTER TABLE branding ENABLE ROW LEVEL SECURITY;
ALTER TABLE branding FORCE ROW LEVEL SECURITY;
ALTER TABLE branding_logos ENABLE ROW LEVEL SECURITY;
ALTER TABLE branding_logos FORCE ROW LEVEL SECURITY;
GRANT SELECT ON branding, branding_logos TO bifrost_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON branding, branding_logos TO bifrost_app;
-- Changed by whoever reaches what belongs to no organization.
CREATE POLICY scope ON branding TO bifrost_app USING (in_scope(NULL)) WITH CHECK (in_scope(NULL));
CREATE POLICY scope ON branding_logos TO bifrost_app USING (in_scope(NULL)) WITH CHECK (in_scope(NULL));
