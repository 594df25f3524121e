DROP TABLE branding_logos, branding;
