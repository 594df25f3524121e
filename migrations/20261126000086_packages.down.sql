DROP TABLE package_switches, package_environments;
