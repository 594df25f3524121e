DROP TABLE developer_contexts, sdk_keys;
