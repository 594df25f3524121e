DROP TABLE form_roles, forms;
