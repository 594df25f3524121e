DROP TABLE git_repository;
