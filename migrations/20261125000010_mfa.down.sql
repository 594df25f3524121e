DROP TABLE trusted_devices, recovery_codes, mfa_methods;
ALTER TABLE users DROP COLUMN mfa_enabled;
