-- Who changes a user may take their second factor in the same transaction. Its tables are the platform's alone, so the row of the
-- user says it, where row-level security sees to whose that is, and they follow: also an enrolment that was only begun.
CREATE FUNCTION forget_second_factor() RETURNS TRIGGER
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
    DELETE FROM recovery_codes WHERE user_id = NEW.id;
    DELETE FROM trusted_devices WHERE user_id = NEW.id;
    DELETE FROM mfa_methods WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION forget_second_factor IS 'Removes methods, recovery codes and trusted devices of a user who has no second factor any more.';
ALTER FUNCTION forget_second_factor OWNER TO bifrost_system;
REVOKE ALL ON FUNCTION forget_second_factor FROM PUBLIC;

CREATE TRIGGER second_factor_removed AFTER UPDATE OF mfa_enabled ON users FOR EACH ROW
    WHEN (NOT NEW.mfa_enabled) EXECUTE FUNCTION forget_second_factor();
