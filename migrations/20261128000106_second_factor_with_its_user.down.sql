DROP TRIGGER second_factor_removed ON users;
DROP FUNCTION forget_second_factor;
