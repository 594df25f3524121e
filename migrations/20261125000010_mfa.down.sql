DROP TABLE trusted_devices, recovery_codes, mfa_methods;
