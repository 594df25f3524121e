DROP TABLE provider_logins;
